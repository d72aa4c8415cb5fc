/*
 * The limit: a WebSocket server that does nothing but send ready-made messages to its clients.
 *
 *   limit FILE     FILE: messages as clients get them, see load_messages
 *
 * Prints "port N". Answers whatever a client sends with an ack. Command on stdin:
 *   go COUNT RATE BURST WAY SPREAD CLIENTS   COUNT updates, RATE a second, BURST at once; WAY frame: a send() for each
 *                                            message, coalesced: one for a client's messages of a burst; SPREAD all:
 *                                            each update to the first CLIENTS clients, one: to one of them in turn;
 *                                            without clients it only keeps time
 *                                            → sent MESSAGES NANOSECONDS
 * Ends when stdin does.
 */
#define _GNU_SOURCE
#include "wire.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/uio.h>

#define MAX_CLIENTS 20000
#define MAX_BURST 64

static int clients[MAX_CLIENTS], client_count, poller;
static struct message *messages;
static size_t message_count;
static uint64_t sent;

/* Waits where the kernel's buffer is full: a limit needs no backlog. */
static void write_all(int fd, struct iovec *parts, int count) {
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    while (message.msg_iovlen) {
        ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, 1000);
        else if (n < 0) return;
        while (n > 0 && message.msg_iovlen && (size_t)n >= message.msg_iov->iov_len) {
            n -= (ssize_t)message.msg_iov->iov_len;
            message.msg_iov++, message.msg_iovlen--;
        }
        if (n > 0) {
            message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + n;
            message.msg_iov->iov_len -= (size_t)n;
        }
    }
}

static void send_burst(uint64_t first, int burst, bool coalesced, bool to_all, int to) {
    struct iovec parts[MAX_BURST], one;
    for (int i = 0; i < burst; i++) {
        struct message *message = &messages[(first + (uint64_t)i) % message_count];
        stamp(message);
        parts[i] = (struct iovec){message->frame, message->size};
    }
    if (!to_all) {
        for (int i = 0; i < burst; i++) {
            one = parts[i];
            write_all(clients[(first + (uint64_t)i) % (uint64_t)to], &one, 1);
        }
        sent += (uint64_t)burst;
        return;
    }
    if (coalesced) {
        for (int c = 0; c < to; c++) {
            struct iovec copy[MAX_BURST];
            memcpy(copy, parts, sizeof *copy * (size_t)burst);
            write_all(clients[c], copy, burst);
        }
    } else {
        for (int i = 0; i < burst; i++)
            for (int c = 0; c < to; c++) {
                one = parts[i];
                write_all(clients[c], &one, 1);
            }
    }
    sent += (uint64_t)burst * (uint64_t)to;
}

static bool command(void) {
    char line[256], way[16], spread[8];
    unsigned long count, rate;
    int burst, to;
    if (!fgets(line, sizeof line, stdin)) return false;
    if (sscanf(line, "go %lu %lu %d %15s %7s %d", &count, &rate, &burst, way, spread, &to) != 6) return true;
    uint64_t started = now_ns();
    burst = burst < MAX_BURST ? burst : MAX_BURST;
    to = to < client_count ? to : client_count;
    sent = 0;
    for (uint64_t done = 0; done < count; done += (uint64_t)burst) {
        uint64_t due = started + done * 1000000000ULL / rate;
        struct timespec at = {.tv_sec = (time_t)(due / 1000000000ULL), .tv_nsec = (long)(due % 1000000000ULL)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        if (to) send_burst(done, burst, way[0] == 'c', spread[0] == 'a', to);
    }
    printf("sent %lu %lu\n", (unsigned long)sent, (unsigned long)(now_ns() - started));
    fflush(stdout);
    return true;
}

static void accept_clients(int listener) {
    for (int fd; client_count < MAX_CLIENTS && (fd = accept(listener, NULL, NULL)) >= 0;) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        set_nonblocking(fd);
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
        clients[client_count++] = fd;
    }
}

static void receive(int fd) {
    static char buffer[65536], reply[256];
    static const char ack[] = "\x81\x0e{\"type\":\"ack\"}";
    ssize_t n = recv(fd, buffer, sizeof buffer - 1, 0);
    if (n <= 0) {
        close(fd);
        return;
    }
    buffer[n] = 0;
    int size = buffer[0] == 'G' ? put_handshake(reply, sizeof reply, buffer) : 0;
    if (send(fd, size ? reply : ack, size ? (size_t)size : sizeof ack - 1, MSG_NOSIGNAL) < 0) close(fd);
}

int main(int count, char **arguments) {
    if (count < 2) return fprintf(stderr, "limit FILE\n"), 2;
    struct epoll_event events[512], event = {.events = EPOLLIN};
    setvbuf(stdin, NULL, _IONBF, 0);
    prctl(PR_SET_TIMERSLACK, 1);
    raise_file_limit();
    messages = load_messages(arguments[1], &message_count);
    poller = epoll_create1(0);
    epoll_ctl(poller, EPOLL_CTL_ADD, event.data.fd = 0, &event);
    int listener = listen_anywhere();
    event.data.fd = listener;
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(poller, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == 0) {
                if (!command()) return 0;
            } else if (events[i].data.fd == listener) {
                accept_clients(listener);
            } else {
                receive(events[i].data.fd);
            }
        }
    }
}
