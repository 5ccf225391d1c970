// How a session lies in its record, and at the head of an exported file.
//
//   record = magic, version, ... | id, parent, metadata | tokens (int32 each)
//   file   = magic, version, sizes, identity of the blocks | record | hash of all before
//            then for each block: index, state, hash over that and the payload | payload
//
// Integers are little-endian. A reader takes its own version only, and checks every size.
#pragma once
#include "engine/kv/layout.h"
#include "engine/sessions.h"

struct session_meta {                   // a session without its text
    char     id[SESSION_ID_MAX + 1], parent[SESSION_ID_MAX + 1];
    char     metadata[SESSION_METADATA_MAX + 1];
    uint32_t n_tokens, parent_tokens, ttl_s;
    int64_t  created_s, used_s;
    bool     pin, imported, has_attn;
    struct attn_policy attn;
    struct hash model;                  // as in content keys
    struct hash nonce;                  // imported: keeps its blocks apart
};

size_t session_record_bytes(const struct session_meta *m);
void   session_record_write(const struct session_meta *m, const int32_t *token, uint8_t *dst);
// *tokens (may be NULL) points into p. Returns 0, -ENOTSUP (another version), -EINVAL.
int    session_record_read(const uint8_t *p, size_t n, struct session_meta *ret,
                           const uint8_t **tokens, struct err *err);
void   session_tokens_read(const uint8_t *p, uint32_t n_tokens, int32_t *dst);

struct session_identity {               // what the payloads are good for
    struct hash      model, executor;
    struct kv_layout layout;
    bool             exact;
};

struct session_file {
    struct session_identity identity;
    uint32_t n_blocks;                  // frames behind the head
    uint32_t record_bytes;
};

#define SESSION_FILE_BYTES 256u         // before the record
#define SESSION_FRAME_BYTES 40u         // before a payload

void session_file_write(const struct session_file *f, uint8_t dst[SESSION_FILE_BYTES]);
// Returns 0, -ENOTSUP, -EINVAL.
int  session_file_read(const uint8_t p[SESSION_FILE_BYTES], struct session_file *ret,
                       struct err *err);
// -ESTALE, with the first thing that differs.
int  session_identity_check(const struct session_identity *file,
                            const struct session_identity *own, struct err *err);

struct session_frame {
    uint32_t index;                     // of the block in the text
    bool     whole;                     // else it was lost while the file was written
    struct hash sum;
};
void session_frame_write(const struct session_frame *f, uint8_t dst[SESSION_FRAME_BYTES]);
int  session_frame_read(const uint8_t p[SESSION_FRAME_BYTES], struct session_frame *ret);
// head: the hash that closes the file's head, so that frames of two files do not mix.
void session_frame_sum(const struct hash *head, const struct session_frame *f,
                       const uint8_t *payload, size_t n, struct hash *ret);
