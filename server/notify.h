// The protocol of sd_notify(3), spoken by hand: datagrams of KEY=VALUE lines to a unix socket.
#pragma once
#include <stdint.h>

// path: of config.notify_socket; NULL: nobody listens and nothing is sent. Never blocks.
void notify_send(const char *path, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
