// Listening sockets: addresses in text, and sockets that systemd passes.
#pragma once
#include <stdbool.h>
#include "base/err.h"
#include "server/config.h"

#define LISTEN_FDS_MAX 16

struct listeners { int fd[LISTEN_FDS_MAX]; unsigned n; bool loopback; };    // loopback: all of them

// "127.0.0.1:8080", "[::1]:8080", "localhost:8080", ":8080" (every address). Binds and listens.
// Returns 0, -EINVAL (no address), or the negative errno of the failing call.
int listen_on(struct listeners *ret, const char *address, struct err *err);
// Takes the sockets passed at start whose name is `name` ("main" takes unnamed ones too).
void listen_adopt(struct listeners *ret, const struct config *c, const char *name);
void listen_close(struct listeners *l);
// The address that a socket got, "127.0.0.1:34567".
void listen_name(int fd, char *buf, size_t size);
