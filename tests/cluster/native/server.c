// An HTTP server in a WebAssembly module, over the socket calls that WasmEdge adds to WASI.
//
// Not a module for keepers, which give no network: it runs as an image of its own, natively, in a
// RuntimeClass whose runtime is WasmEdge. It answers one request after the other, says which
// version it is (argv[1]) and what it was sent, and closes the connection each time.
//
// clang --target=wasm32-wasi -O2 -s -o server.wasm server.c

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IMPORT(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(name)))

// https://github.com/WasmEdge/WasmEdge, lib/host/wasi/wasifunc.cpp
typedef struct { const uint8_t *bytes; uint32_t length; } address;
enum { INET4 = 1, STREAM = 2 };
IMPORT("sock_open") int sock_open(int family, int type, int *fd);
IMPORT("sock_bind") int sock_bind(int fd, const address *to, int port);
IMPORT("sock_listen") int sock_listen(int fd, int backlog);
IMPORT("sock_accept") int sock_accept(int fd, int *connection);

static char request[65536];

// Reads until the body that Content-Length announces is there; returns it, or null.
static char *read_body(int fd) {
    size_t held = 0;
    while (held < sizeof request - 1) {
        ssize_t got = read(fd, request + held, sizeof request - 1 - held);
        if (got <= 0) return NULL;
        held += got;
        request[held] = 0;
        char *body = strstr(request, "\r\n\r\n");
        if (!body) continue;
        body += 4;
        char *length = strcasestr(request, "content-length:");
        size_t wanted = length && length < body ? strtoul(length + 15, NULL, 10) : 0;
        if (held - (body - request) >= wanted) return body;
    }
    return NULL;
}

int main(int argc, char **argv) {
    const uint8_t any[4] = {0};
    const address all = {any, sizeof any};
    const char *port = getenv("PORT");
    int listener, connection;
    if (sock_open(INET4, STREAM, &listener) || sock_bind(listener, &all, port ? atoi(port) : 10086) ||
        sock_listen(listener, 128)) {
        fputs("cannot listen\n", stderr);
        return 1;
    }
    while (!sock_accept(listener, &connection)) {
        char *body = read_body(connection);
        if (body) {
            static char answer[sizeof request + 256];
            const char *version = argc > 1 ? argv[1] : "1";
            int size = snprintf(answer, sizeof answer,
                                "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nx-version: %s\r\n"
                                "content-length: %zu\r\nconnection: close\r\n\r\n%s",
                                version, strlen(body), body);
            for (int sent = 0; sent < size;) {
                ssize_t some = write(connection, answer + sent, size - sent);
                if (some <= 0) break;
                sent += some;
            }
        }
        close(connection);
    }
    return 1;
}
