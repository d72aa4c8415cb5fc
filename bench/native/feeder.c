/*
 * A Solana node that only sends: PubSub (slotSubscribe, programSubscribe) and HTTP (getSlot, getGenesisHash) on one
 * port of 127.0.0.1. It plays ready-made programNotifications at a rate, or as fast as TCP takes them.
 *
 *   feeder FILE [zstd]     FILE: see load_messages; without "zstd" the encoding base64+zstd is refused, as old nodes do
 *
 * Prints "port N", and "subscribed" for each programSubscribe. Commands on stdin:
 *   go COUNT RATE BURST FIRST LAST    COUNT updates, RATE a second (0: as fast as possible), BURST in one write, from
 *                                     the messages FIRST … LAST in turn; COUNT 0 goes on until "stop"
 *   stop                              both are answered "sent COUNT NANOSECONDS LATE_NANOSECONDS"
 * Ends when stdin does. LATE: how far it fell behind its schedule at worst.
 */
#define _GNU_SOURCE
#include "wire.h"
#include <poll.h>
#include <sys/prctl.h>

#define MAX_PEERS 16
#define OUT_ROOM (512 * 1024)
#define IN_ROOM (64 * 1024)
#define UNTHROTTLED_BURST 64
#define GENESIS "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"

struct peer {
    int fd; /* -1: free */
    bool websocket, slots, program;
    char in[IN_ROOM];
    size_t in_size;
    char out[OUT_ROOM];
    size_t out_at, out_size;
};

static struct peer peers[MAX_PEERS];
static struct message *messages;
static size_t message_count;
static bool zstd;
static uint64_t last_slot;

static struct {
    bool on;
    uint64_t count, sent, rate, burst, first, last, next, started, late;
} run;

static void drop(struct peer *peer) {
    close(peer->fd);
    peer->fd = -1;
}

static void flush_peer(struct peer *peer) {
    while (peer->fd >= 0 && peer->out_at < peer->out_size) {
        ssize_t n = send(peer->fd, peer->out + peer->out_at, peer->out_size - peer->out_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) drop(peer);
        else peer->out_at += (size_t)n;
    }
    peer->out_at = peer->out_size = 0;
}

static void queue(struct peer *peer, const void *bytes, size_t size) {
    if (peer->out_size + size > OUT_ROOM) return;
    memcpy(peer->out + peer->out_size, bytes, size);
    peer->out_size += size;
}

static void queue_text(struct peer *peer, const char *text) {
    unsigned char head[MAX_HEAD];
    queue(peer, head, put_frame_head(head, 1, strlen(text)));
    queue(peer, text, strlen(text));
}

static long request_id(const char *text) {
    const char *id = strstr(text, "\"id\":");
    return id ? strtol(id + 5, NULL, 10) : 0;
}

static void answer(char *text, size_t room, const char *request) {
    long id = request_id(request);
    if (strstr(request, "getGenesisHash"))
        snprintf(text, room, "{\"jsonrpc\":\"2.0\",\"result\":\"" GENESIS "\",\"id\":%ld}", id);
    else if (strstr(request, "getSlot"))
        snprintf(text, room, "{\"jsonrpc\":\"2.0\",\"result\":%lu,\"id\":%ld}", (unsigned long)current_slot(), id);
    else if (strstr(request, "slotSubscribe"))
        snprintf(text, room, "{\"jsonrpc\":\"2.0\",\"result\":2,\"id\":%ld}", id);
    else if (strstr(request, "programSubscribe") && (zstd || !strstr(request, "zstd")))
        snprintf(text, room, "{\"jsonrpc\":\"2.0\",\"result\":1,\"id\":%ld}", id);
    else
        snprintf(text, room, "{\"jsonrpc\":\"2.0\",\"error\":{\"code\":-32602,\"message\":\"refused\"},\"id\":%ld}", id);
}

static void take_text(struct peer *peer, const char *text) {
    char reply[512];
    answer(reply, sizeof reply, text);
    queue_text(peer, reply);
    if (strstr(text, "slotSubscribe")) peer->slots = true, last_slot = 0;
    if (strstr(text, "programSubscribe") && !strstr(reply, "error")) {
        peer->program = true;
        puts("subscribed");
        fflush(stdout);
    }
}

static void take_frames(struct peer *peer) {
    struct frame_head frame;
    size_t at = 0;
    while (read_frame_head((unsigned char *)peer->in + at, peer->in_size - at, &frame) &&
           peer->in_size - at >= frame.head + frame.size) {
        char *payload = unmask((unsigned char *)peer->in + at, &frame), text[4097];
        if (frame.opcode == 8 || frame.size > 4096) { /* an Agave node takes requests of 4,096 bytes */
            drop(peer);
            return;
        }
        if (frame.opcode == 1) {
            memcpy(text, payload, frame.size);
            text[frame.size] = 0;
            take_text(peer, text);
        } else if (frame.opcode == 9) {
            unsigned char head[MAX_HEAD];
            queue(peer, head, put_frame_head(head, 10, frame.size));
            queue(peer, payload, frame.size);
        }
        at += frame.head + frame.size;
    }
    memmove(peer->in, peer->in + at, peer->in_size -= at);
}

static void take_http(struct peer *peer) {
    peer->in[peer->in_size] = 0;
    char *end = strstr(peer->in, "\r\n\r\n"), body[512], reply[1024];
    if (!end) return;
    const char *length = strcasestr(peer->in, "content-length:");
    size_t whole = (size_t)(end + 4 - peer->in) + (length ? strtoul(length + 15, NULL, 10) : 0);
    if (whole > peer->in_size) return;
    if (!length) {
        queue(peer, reply, (size_t)put_handshake(reply, sizeof reply, peer->in));
        peer->websocket = true;
    } else {
        answer(body, sizeof body, end + 4);
        queue(peer, reply, (size_t)snprintf(reply, sizeof reply, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                                            "Content-Length: %zu\r\n\r\n%s", strlen(body), body));
    }
    memmove(peer->in, peer->in + whole, peer->in_size -= whole);
}

static void receive(struct peer *peer) {
    ssize_t n = recv(peer->fd, peer->in + peer->in_size, IN_ROOM - 1 - peer->in_size, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        drop(peer);
        return;
    }
    peer->in_size += (size_t)n;
    peer->websocket ? take_frames(peer) : take_http(peer);
    if (peer->fd >= 0) flush_peer(peer);
}

static void accept_peer(int listener) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) return;
    for (int i = 0; i < MAX_PEERS; i++)
        if (peers[i].fd < 0) {
            set_nonblocking(fd);
            peers[i].fd = fd;
            peers[i].websocket = peers[i].slots = peers[i].program = false;
            peers[i].in_size = peers[i].out_at = peers[i].out_size = 0;
            return;
        }
    close(fd);
}

static void tell_slot(void) {
    char text[160];
    if (current_slot() == last_slot) return;
    last_slot = current_slot();
    unsigned long slot = (unsigned long)last_slot;
    snprintf(text, sizeof text, "{\"jsonrpc\":\"2.0\",\"method\":\"slotNotification\",\"params\":{\"result\":{\"parent\":%lu,"
             "\"root\":%lu,\"slot\":%lu},\"subscription\":2}}", slot - 1, slot - 32, slot);
    for (int i = 0; i < MAX_PEERS; i++)
        if (peers[i].fd >= 0 && peers[i].slots) {
            queue_text(&peers[i], text);
            flush_peer(&peers[i]);
        }
}

static void finish(void) {
    run.on = false;
    printf("sent %lu %lu %lu\n", (unsigned long)run.sent, (unsigned long)(now_ns() - run.started), (unsigned long)run.late);
    fflush(stdout);
}

/* Sends what is due; returns when more is, or 0 where only TCP decides. */
static uint64_t play(void) {
    struct peer *peer = NULL;
    for (int i = 0; i < MAX_PEERS; i++)
        if (peers[i].fd >= 0 && peers[i].program) peer = &peers[i];
    if (!peer || peer->out_at < peer->out_size) return 0;
    uint64_t due = run.rate ? run.started + run.sent * 1000000000ULL / run.rate : 0, now = now_ns();
    if (run.rate && now < due) return due;
    if (run.rate && now - due > run.late) run.late = now - due;
    for (uint64_t i = 0; i < run.burst && (!run.count || run.sent < run.count); i++) {
        struct message *message = &messages[run.next];
        if (peer->out_size + message->size > OUT_ROOM) break;
        stamp(message);
        queue(peer, message->frame, message->size);
        run.next = run.next == run.last ? run.first : run.next + 1;
        run.sent++;
    }
    flush_peer(peer);
    if (run.count && run.sent >= run.count) finish();
    return run.rate ? run.started + run.sent * 1000000000ULL / run.rate : 1;
}

static bool command(void) {
    char line[256];
    unsigned long count, rate, burst, first, last;
    if (!fgets(line, sizeof line, stdin)) return false;
    if (sscanf(line, "go %lu %lu %lu %lu %lu", &count, &rate, &burst, &first, &last) == 5) {
        last = last < message_count ? last : message_count - 1;
        run.on = true, run.count = count, run.sent = 0, run.rate = rate, run.late = 0;
        run.burst = rate ? burst : UNTHROTTLED_BURST;
        run.first = run.next = first, run.last = last, run.started = now_ns();
    } else if (run.on) {
        finish();
    }
    return true;
}

static int wait_for(int listener, uint64_t until) {
    struct pollfd fds[MAX_PEERS + 2] = {{.fd = 0, .events = POLLIN}, {.fd = listener, .events = POLLIN}};
    uint64_t now = now_ns(), wait = until > now ? until - now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(wait / 1000000000ULL), .tv_nsec = (long)(wait % 1000000000ULL)};
    for (int i = 0; i < MAX_PEERS; i++) {
        struct peer *peer = &peers[i];
        fds[i + 2].fd = peer->fd;
        fds[i + 2].events = POLLIN | (peer->fd >= 0 && peer->out_at < peer->out_size ? POLLOUT : 0);
    }
    if (ppoll(fds, MAX_PEERS + 2, &timeout, NULL) < 0 && errno != EINTR) die("ppoll");
    for (int i = 0; i < MAX_PEERS; i++) {
        if (fds[i + 2].revents & POLLOUT) flush_peer(&peers[i]);
        if (peers[i].fd >= 0 && fds[i + 2].revents & (POLLIN | POLLHUP | POLLERR)) receive(&peers[i]);
    }
    if (fds[1].revents) accept_peer(listener);
    return fds[0].revents;
}

int main(int count, char **arguments) {
    if (count < 2) return fprintf(stderr, "feeder FILE [zstd]\n"), 2;
    setvbuf(stdin, NULL, _IONBF, 0);
    prctl(PR_SET_TIMERSLACK, 1);
    messages = load_messages(arguments[1], &message_count);
    zstd = count > 2;
    for (int i = 0; i < MAX_PEERS; i++) peers[i].fd = -1;
    int listener = listen_anywhere();
    for (;;) {
        uint64_t slot_ends = (now_ns() / SLOT_NS + 1) * SLOT_NS, due = run.on ? play() : 0;
        if (wait_for(listener, due && due < slot_ends ? due : slot_ends) && !command()) return 0;
        tell_slot();
    }
}
