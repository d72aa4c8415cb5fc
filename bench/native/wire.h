/* What the three programs share: time, sockets of 127.0.0.1, WebSocket frames and handshakes, ready-made messages. */
#ifndef WIRE_H
#define WIRE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STAMP_BASE 1000000000000000000ULL /* a stamp is this plus CLOCK_MONOTONIC in ns: always 19 digits */
#define STAMP_DIGITS 19
#define SLOT_BASE 400000000ULL
#define SLOT_DIGITS 9
#define SLOT_NS 400000000ULL
#define MAX_HEAD 10 /* bytes of an unmasked frame's header */

static inline void die(const char *what) {
    perror(what);
    exit(1);
}

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static inline uint64_t current_slot(void) { return SLOT_BASE + now_ns() / SLOT_NS; }

static inline void put_digits(char *at, uint64_t value, int digits) {
    while (digits-- > 0) {
        at[digits] = (char)('0' + value % 10);
        value /= 10;
    }
}

static inline void raise_file_limit(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static inline void set_nonblocking(int fd) {
    int on = 1;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* Listens on 127.0.0.1, prints "port N". */
static inline int listen_anywhere(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) || listen(fd, 4096)) die("listen");
    getsockname(fd, (struct sockaddr *)&address, &size);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

/* ---- frames (RFC 6455, 5.2) ---- */

static inline size_t put_frame_head(unsigned char *at, unsigned char opcode, size_t size) {
    at[0] = 0x80 | opcode;
    if (size < 126) {
        at[1] = (unsigned char)size;
        return 2;
    }
    if (size < 65536) {
        at[1] = 126, at[2] = (unsigned char)(size >> 8), at[3] = (unsigned char)size;
        return 4;
    }
    at[1] = 127;
    for (int i = 0; i < 8; i++) at[2 + i] = (unsigned char)((uint64_t)size >> (56 - 8 * i));
    return 10;
}

struct frame_head {
    unsigned char opcode;
    bool masked;
    size_t head, size; /* bytes of the header, mask included; bytes of the payload */
};

/* Reads a header; false while it is incomplete. */
static inline bool read_frame_head(const unsigned char *at, size_t have, struct frame_head *frame) {
    if (have < 2) return false;
    size_t head = 2, size = at[1] & 127;
    if (size == 126) {
        if (have < 4) return false;
        head = 4, size = (size_t)at[2] << 8 | at[3];
    } else if (size == 127) {
        if (have < 10) return false;
        head = 10, size = 0;
        for (int i = 2; i < 10; i++) size = size << 8 | at[i];
    }
    frame->opcode = at[0] & 15, frame->masked = at[1] & 128, frame->size = size;
    frame->head = head + (frame->masked ? 4 : 0);
    return have >= frame->head;
}

/* Removes the mask of a complete payload in place; returns where it begins. */
static inline char *unmask(unsigned char *at, const struct frame_head *frame) {
    unsigned char *mask = at + frame->head - 4, *payload = at + frame->head;
    if (frame->masked)
        for (size_t i = 0; i < frame->size; i++) payload[i] ^= mask[i & 3];
    return (char *)payload;
}

/* ---- handshake (RFC 6455, 4.2.2) ---- */

static inline uint32_t rotate(uint32_t x, int n) { return x << n | x >> (32 - n); }

/* SHA-1 (RFC 3174) of at most 119 bytes. */
static inline void sha1(const char *text, size_t size, unsigned char digest[20]) {
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0}, w[80];
    unsigned char block[128] = {0};
    size_t blocks = size < 56 ? 1 : 2;
    memcpy(block, text, size);
    block[size] = 0x80;
    for (int i = 0; i < 8; i++) block[blocks * 64 - 1 - (size_t)i] = (unsigned char)((uint64_t)size * 8 >> 8 * i);
    for (size_t b = 0; b < blocks; b++) {
        for (int i = 0; i < 16; i++) {
            const unsigned char *at = block + b * 64 + i * 4;
            w[i] = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
        }
        for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t a = h[0], c1 = h[1], c2 = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            uint32_t f = i < 20 ? (c1 & c2) | (~c1 & d) : i < 40 ? c1 ^ c2 ^ d
                         : i < 60 ? (c1 & c2) | (c1 & d) | (c2 & d) : c1 ^ c2 ^ d;
            uint32_t k = i < 20 ? 0x5A827999 : i < 40 ? 0x6ED9EBA1 : i < 60 ? 0x8F1BBCDC : 0xCA62C1D6;
            uint32_t next = rotate(a, 5) + f + e + k + w[i];
            e = d, d = c2, c2 = rotate(c1, 30), c1 = a, a = next;
        }
        h[0] += a, h[1] += c1, h[2] += c2, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++) digest[i] = (unsigned char)(h[i / 4] >> (24 - i % 4 * 8));
}

/* Writes the answer to a WebSocket handshake; returns its size, 0 if the head names no key. */
static inline int put_handshake(char *at, size_t room, const char *head) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *key = strcasestr(head, "sec-websocket-key:");
    char text[64], accept[29];
    unsigned char digest[21] = {0};
    if (!key) return 0;
    key += strlen("sec-websocket-key:");
    key += strspn(key, " ");
    snprintf(text, sizeof text, "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    sha1(text, strlen(text), digest);
    for (int i = 0; i < 7; i++) {
        uint32_t bits = (uint32_t)digest[i * 3] << 16 | (uint32_t)digest[i * 3 + 1] << 8 | digest[i * 3 + 2];
        for (int j = 0; j < 4; j++) accept[i * 4 + j] = digits[bits >> (18 - 6 * j) & 63];
    }
    accept[27] = '=', accept[28] = 0;
    return snprintf(at, room, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                              "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
}

/* ---- ready-made messages ---- */

struct message {
    unsigned char *frame; /* header and payload */
    size_t size;
    char *slot, *stamp; /* where their digits lie in the frame */
};

/* Reads a file of (u32 payload size, u32 offset of the slot, u32 offset of the stamp, payload)…, native order. */
static inline struct message *load_messages(const char *path, size_t *count) {
    FILE *file = fopen(path, "rb");
    struct message *messages = NULL;
    uint32_t numbers[3];
    size_t room = 0;
    *count = 0;
    if (!file) die(path);
    while (fread(numbers, sizeof numbers, 1, file) == 1) {
        if (*count == room) messages = realloc(messages, (room = room * 2 + 1024) * sizeof *messages);
        struct message *message = &messages[(*count)++];
        message->frame = malloc(numbers[0] + MAX_HEAD);
        size_t head = put_frame_head(message->frame, 1, numbers[0]);
        if (fread(message->frame + head, numbers[0], 1, file) != 1) die("truncated messages");
        message->size = head + numbers[0];
        message->slot = (char *)message->frame + head + numbers[1];
        message->stamp = (char *)message->frame + head + numbers[2];
    }
    fclose(file);
    return messages;
}

static inline void stamp(struct message *message) {
    put_digits(message->slot, current_slot(), SLOT_DIGITS);
    put_digits(message->stamp, STAMP_BASE + now_ns(), STAMP_DIGITS);
}

#endif
