/*
 * Many WebSocket clients in one thread: they subscribe, count what comes and how long it took.
 *
 *   load PORT KEYS [CONNECTIONS [BYTES [deflate]]]
 *                                    KEYS: a file of public keys, one a line; CONNECTIONS: the most there will be;
 *                                    BYTES: of a socket's receive buffer, 0: as the kernel thinks fit;
 *                                    deflate: they offer permessage-deflate. What comes compressed is not inflated,
 *                                    and counts as a live update without a latency
 *
 * Commands on stdin, each answered by one line:
 *   connect N                        N more clients               → connected TOTAL NANOSECONDS
 *   subscribe A B KEY EACH STEP      client A ≤ c < B subscribes to EACH keys from KEY + (c - A) * STEP on
 *                                                                 → acked REQUESTS NANOSECONDS
 *   unsubscribe A B KEY EACH STEP    the same                     → acked REQUESTS NANOSECONDS
 *   stall A B / resume               they stop reading; all read  → stalled N / resumed
 *   reset                            counts begin at 0            → reset
 *   await N MILLISECONDS             until N live updates came    → live N
 *   report                           counts as JSON; latency from the stamp in an update's lamports (see wire.h)
 * Ends when stdin does.
 */
#define _GNU_SOURCE
#include "wire.h"
#include <sys/epoll.h>

#define PEEK 480 /* the stamp lies within so many bytes of a message, and answers that count are no longer */
#define READ_ROOM (256 * 1024)
#define KEYS_A_REQUEST 1000
#define IN_FLIGHT 512
#define STEPS 64 /* a bucket of the histogram is 1/64 of a power of two wide */

struct client {
    int fd;
    bool open, told; /* handshake done; told: waits for POLLOUT */
    bool stalled;
    uint16_t held; /* bytes of an incomplete message in `start` */
    uint16_t stamp_at;
    uint64_t skip; /* bytes of the current message that are of no interest */
    uint64_t live, newest;
    char *out;
    size_t out_at, out_size;
    unsigned char start[PEEK + MAX_HEAD];
};

static struct client *clients;
static size_t client_count, client_room, opened, opening;
static size_t wanted; /* clients to be connected */
static char (*keys)[48];
static size_t key_count;
static int poller, port, receive_bytes;
static bool deflate;
static struct {
    uint64_t live, compressed, states, acks, errors, bytes, reads, backwards, closed, max_ns;
    uint64_t buckets[64 * STEPS];
} counts;
static enum { IDLE, CONNECTING, ACKS, LIVE } waiting;
static uint64_t waiting_since, waiting_until, waiting_for, acks_before;

static void watch(struct client *client, int operation) {
    uint32_t events = (client->stalled ? 0 : EPOLLIN) | (client->told ? EPOLLOUT : 0);
    struct epoll_event event = {.events = events, .data.ptr = client};
    epoll_ctl(poller, operation, client->fd, &event);
}

static void lose(struct client *client) {
    close(client->fd);
    client->fd = -1;
    opened -= client->open;
    client->open = false;
    counts.closed++;
}

/* ---- sending ---- */

static void flush_client(struct client *client) {
    while (client->out_at < client->out_size) {
        ssize_t n = send(client->fd, client->out + client->out_at, client->out_size - client->out_at, MSG_NOSIGNAL);
        if (n <= 0) break;
        client->out_at += (size_t)n;
    }
    bool more = client->out_at < client->out_size;
    if (!more) {
        free(client->out);
        client->out = NULL, client->out_at = client->out_size = 0;
    }
    if (more != client->told) {
        client->told = more;
        watch(client, EPOLL_CTL_MOD);
    }
}

static void post(struct client *client, unsigned char opcode, const char *payload, size_t size) {
    unsigned char head[MAX_HEAD + 4] = {0};
    size_t head_size = put_frame_head(head, opcode, size);
    head[1] |= 0x80; /* masked with zeros, which is a mask like any other */
    head_size += 4;
    client->out = realloc(client->out, client->out_size + head_size + size);
    memcpy(client->out + client->out_size, head, head_size);
    memcpy(client->out + client->out_size + head_size, payload, size);
    client->out_size += head_size + size;
}

static void post_request(struct client *client, const char *action, size_t first, size_t each) {
    static char text[KEYS_A_REQUEST * 50 + 128];
    int size = sprintf(text, "{\"action\":\"%s\",\"id\":1,\"pubkeys\":[", action);
    for (size_t i = 0; i < each; i++)
        size += sprintf(text + size, "%s\"%s\"", i ? "," : "", keys[(first + i) % key_count]);
    size += sprintf(text + size, "]}");
    post(client, 1, text, (size_t)size);
}

/* ---- receiving ---- */

static uint64_t read_number(const char *at) {
    uint64_t value = 0;
    while (*at >= '0' && *at <= '9') value = value * 10 + (uint64_t)(*at++ - '0');
    return value;
}

static void take_latency(uint64_t ns) {
    int power = ns < STEPS ? 0 : 63 - __builtin_clzll(ns) - 5;
    counts.buckets[power * STEPS + (power ? (int)(ns >> power) : (int)ns)]++;
    if (ns > counts.max_ns) counts.max_ns = ns;
}

static void take_update(struct client *client, const char *text, size_t size, uint64_t now) {
    static const char key[] = "\"lamports\":", id_key[] = "\"account\":{\"id\":";
    const char *at = text + client->stamp_at - (sizeof key - 1);
    if (client->stamp_at < sizeof key || client->stamp_at + (size_t)STAMP_DIGITS > size || memcmp(at, key, sizeof key - 1)) {
        at = memmem(text, size, key, sizeof key - 1);
        if (!at) return;
        client->stamp_at = (uint16_t)(at - text + (long)sizeof key - 1);
    }
    uint64_t stamped = read_number(at + sizeof key - 1);
    if (stamped > STAMP_BASE && stamped - STAMP_BASE < now) take_latency(now - (stamped - STAMP_BASE));
    const char *id = memmem(text + 60, 64, id_key, sizeof id_key - 1);
    uint64_t number = id ? read_number(id + sizeof id_key - 1) : 0;
    counts.backwards += number && number <= client->newest;
    client->newest = number;
}

/* Takes the first PEEK bytes, or all, of a text message. */
static void take_text(struct client *client, const char *text, size_t size, uint64_t now) {
    static const char live[] = "\"source\":\"realtime\"";
    if (size > 120 && !memcmp(text, "{\"pubkey\":\"", 11)) {
        if (!memmem(text + 43, 40, live, sizeof live - 1)) {
            counts.states++;
            return;
        }
        counts.live++, client->live++;
        take_update(client, text, size, now);
    } else if (memmem(text, size, "\"ack\"", 5)) {
        counts.acks++;
    } else {
        counts.errors++;
    }
}

/* Takes messages from `at`; returns how many bytes at the end are an incomplete start of one. */
static size_t take_messages(struct client *client, unsigned char *at, size_t size, uint64_t now) {
    struct frame_head frame;
    while (read_frame_head(at, size, &frame)) {
        size_t peek = frame.size < PEEK ? frame.size : PEEK;
        if (size < frame.head + peek) break;
        char *payload = (char *)at + frame.head;
        if (frame.opcode == 1 && at[0] & 0x40) counts.compressed++, counts.live++, client->live++;
        else if (frame.opcode == 1) take_text(client, payload, peek, now);
        else if (frame.opcode == 9) post(client, 10, payload, peek);
        else if (frame.opcode == 8) counts.errors++;
        size_t whole = frame.head + frame.size;
        if (size < whole) {
            client->skip = whole - size;
            return 0;
        }
        at += whole, size -= whole;
    }
    return size;
}

static void take_handshake(struct client *client, unsigned char *at, size_t size) {
    if (size < 12 || memcmp(at, "HTTP/1.1 101", 12)) {
        lose(client);
        return;
    }
    client->open = true;
    opened++, opening--;
}

static void receive(struct client *client, uint64_t now) {
    static unsigned char buffer[READ_ROOM];
    memcpy(buffer, client->start, client->held);
    ssize_t n = recv(client->fd, buffer + client->held, READ_ROOM - client->held, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        opening -= !client->open;
        lose(client);
        return;
    }
    counts.bytes += (uint64_t)n, counts.reads++;
    unsigned char *at = buffer;
    size_t size = (size_t)n + client->held;
    client->held = 0;
    if (!client->open) {
        unsigned char *end = memmem(at, size, "\r\n\r\n", 4);
        if (end) {
            take_handshake(client, at, size);
            if (client->fd < 0) return;
            size -= (size_t)(end + 4 - at), at = end + 4;
        }
    }
    size_t skipped = client->skip < size ? client->skip : size;
    client->skip -= skipped, at += skipped, size -= skipped;
    size_t rest = client->open ? take_messages(client, at, size, now) : size;
    if (rest) memmove(client->start, at + size - rest, rest);
    client->held = (uint16_t)rest;
    if (client->out) flush_client(client);
}

/* ---- commands ---- */

static void connect_more(void) {
    static const char head[] = "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n";
    static const char offer[] = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    while (opening < IN_FLIGHT && client_count < wanted) {
        struct client *client = &clients[client_count++];
        client->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (client->fd < 0) die("socket");
        if (receive_bytes) setsockopt(client->fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
        if (connect(client->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
        set_nonblocking(client->fd);
        client->out = malloc(sizeof head + sizeof offer + 2);
        client->out_size = (size_t)sprintf(client->out, "%s%s\r\n", head, deflate ? offer : "");
        watch(client, EPOLL_CTL_ADD);
        flush_client(client);
        opening++;
    }
}

static void request(const char *action, const unsigned long at[5]) {
    acks_before = counts.acks, waiting_for = 0, waiting = ACKS;
    for (size_t c = at[0]; c < at[1] && c < client_count; c++) {
        if (clients[c].fd < 0) continue;
        for (size_t done = 0; done < at[3]; done += KEYS_A_REQUEST, waiting_for++)
            post_request(&clients[c], action, at[2] + (c - at[0]) * at[4] + done,
                         at[3] - done < KEYS_A_REQUEST ? at[3] - done : KEYS_A_REQUEST);
        flush_client(&clients[c]);
    }
}

static void stall(size_t from, size_t to, bool stalled) {
    for (size_t c = from; c < to && c < client_count; c++)
        if (clients[c].fd >= 0 && clients[c].stalled != stalled) {
            clients[c].stalled = stalled;
            watch(&clients[c], EPOLL_CTL_MOD);
        }
}

static double percentile(double part) {
    uint64_t total = 0, below = 0;
    for (int i = 0; i < 64 * STEPS; i++) total += counts.buckets[i];
    for (int i = 0; i < 64 * STEPS; i++) {
        below += counts.buckets[i];
        if (total && (double)below >= part * (double)total) {
            int power = i / STEPS;
            return (double)((uint64_t)(i % STEPS) << power) / 1000.0;
        }
    }
    return 0;
}

static void report(void) {
    uint64_t least = UINT64_MAX, most = 0;
    for (size_t c = 0; c < client_count; c++) {
        if (clients[c].live < least) least = clients[c].live;
        if (clients[c].live > most) most = clients[c].live;
    }
    printf("{\"clients\":%zu,\"live\":%lu,\"compressed\":%lu,\"states\":%lu,\"acks\":%lu,\"errors\":%lu,\"closed\":%lu,\"bytes\":%lu,"
           "\"reads\":%lu,\"backwards\":%lu,\"least\":%lu,\"most\":%lu,"
           "\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f}\n",
           opened, counts.live, counts.compressed, counts.states, counts.acks, counts.errors, counts.closed, counts.bytes, counts.reads,
           counts.backwards, client_count ? least : 0, most, percentile(0.5), percentile(0.99), percentile(0.999),
           (double)counts.max_ns / 1000.0);
}

static void reset(void) {
    memset(&counts, 0, sizeof counts);
    for (size_t c = 0; c < client_count; c++) clients[c].live = 0;
}

static bool command(void) {
    char line[256], verb[32] = "";
    unsigned long at[5] = {0};
    if (!fgets(line, sizeof line, stdin)) return false;
    sscanf(line, "%31s %lu %lu %lu %lu %lu", verb, at, at + 1, at + 2, at + 3, at + 4);
    waiting_since = now_ns(), waiting_until = 0;
    if (!strcmp(verb, "connect")) {
        wanted = client_count + at[0] < client_room ? client_count + at[0] : client_room;
        waiting = CONNECTING;
    } else if (!strcmp(verb, "subscribe") || !strcmp(verb, "unsubscribe")) {
        request(verb, at);
    } else if (!strcmp(verb, "await")) {
        waiting = LIVE, waiting_for = at[0], waiting_until = waiting_since + at[1] * 1000000;
    } else if (!strcmp(verb, "stall")) {
        stall(at[0], at[1], true);
        printf("stalled %lu\n", at[1] - at[0]);
    } else if (!strcmp(verb, "resume")) {
        stall(0, client_count, false);
        puts("resumed");
    } else if (!strcmp(verb, "reset")) {
        reset();
        puts("reset");
    } else if (!strcmp(verb, "report")) {
        report();
    } else {
        puts("unknown");
    }
    fflush(stdout);
    return true;
}

static void conclude(void) {
    unsigned long took = (unsigned long)(now_ns() - waiting_since);
    if (waiting == CONNECTING && client_count == wanted && !opening) {
        printf("connected %zu %lu\n", opened, took);
    } else if (waiting == ACKS && counts.acks + counts.errors - acks_before >= waiting_for) {
        printf("acked %lu %lu\n", (unsigned long)(counts.acks - acks_before), took);
    } else if (waiting == LIVE && (counts.live >= waiting_for || now_ns() > waiting_until)) {
        printf("live %lu\n", (unsigned long)counts.live);
    } else {
        return;
    }
    fflush(stdout);
    waiting = IDLE;
}

static void load_keys(const char *path) {
    FILE *file = fopen(path, "r");
    size_t room = 0;
    if (!file) die(path);
    for (;;) {
        if (key_count == room) keys = realloc(keys, (room = room * 2 + 1024) * sizeof *keys);
        if (fscanf(file, "%47s", keys[key_count]) != 1) break;
        key_count++;
    }
    fclose(file);
}

int main(int count, char **arguments) {
    if (count < 3) return fprintf(stderr, "load PORT KEYS [CONNECTIONS [BYTES [deflate]]]\n"), 2;
    struct epoll_event events[512], event = {.events = EPOLLIN};
    setvbuf(stdin, NULL, _IONBF, 0);
    raise_file_limit();
    port = atoi(arguments[1]);
    load_keys(arguments[2]);
    client_room = count > 3 ? strtoul(arguments[3], NULL, 10) : 1000;
    receive_bytes = count > 4 ? atoi(arguments[4]) : 0;
    deflate = count > 5;
    clients = calloc(client_room, sizeof *clients);
    poller = epoll_create1(0);
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &event);
    for (;;) {
        if (waiting == CONNECTING) connect_more();
        if (waiting) conclude();
        int ready = epoll_wait(poller, events, 512, waiting ? 10 : -1);
        uint64_t now = now_ns();
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            if (!client) {
                if (!command()) return 0;
            } else if (client->fd >= 0) {
                if (events[i].events & EPOLLOUT) flush_client(client);
                if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(client, now);
            }
        }
    }
}
