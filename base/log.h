// One log sink. Libraries return errors; only server/ and main programs log them.
//
// Under systemd (JOURNAL_STREAM set, see log_init) lines carry "<N>" priority prefixes; elsewhere a
// time and a level word. Control bytes in a message are escaped, so a client cannot forge a line.
// Thread-safety: any thread. A closed or blocked stderr never stops the caller.
#pragma once
#include <stdbool.h>

enum log_level { LOG_ERROR = 3, LOG_WARNING = 4, LOG_NOTICE = 5, LOG_INFO = 6, LOG_DEBUG = 7 };

// Until it is called: level LOG_INFO, no prefixes.
void log_init(enum log_level max_level, bool journal_prefixes);
void log_print(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_print(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_print(LOG_WARNING, __VA_ARGS__)
#define log_notice(...) log_print(LOG_NOTICE, __VA_ARGS__)
#define log_info(...) log_print(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_print(LOG_DEBUG, __VA_ARGS__)
