// Opening the listeners of the application.
#pragma once
#include "server/app.h"
#include "server/listen.h"

extern const struct http_events app_http_events;

// Reads the key file again, if there is one. On failure the keys stay as they were.
int app_load_keys(struct app *a, struct err *err);
// Binds and opens both listeners. Returns 0, -EINVAL or -EACCES (a public address without a key),
// or the negative errno of a socket call.
int app_open_listeners(struct app *a, struct err *err);
