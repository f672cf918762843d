/* A page made of its query, `name=NAME&count=N`, for the `wagi` interface: a list of N random numbers. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void text(const char *from, const char *end) {
  for (; from < end; from++) switch (*from) {
      case '&': fputs("&amp;", stdout); break;
      case '<': fputs("&lt;", stdout); break;
      case '>': fputs("&gt;", stdout); break;
      case '"': fputs("&quot;", stdout); break;
      default: putchar(*from);
    }
}

static const char *field(const char *query, const char *name, const char **end) {
  size_t length = strlen(name);
  for (const char *at = query; *at; at = **end ? *end + 1 : *end) {
    *end = at + strcspn(at, "&");
    if (!strncmp(at, name, length) && at[length] == '=') return at + length + 1;
  }
  return NULL;
}

int main(void) {
  const char *query = getenv("QUERY_STRING"), *end, *value;
  if (!query) query = "";
  puts("Content-Type: text/html; charset=utf-8\n");
  puts("<!doctype html><html><head><title>Random numbers</title></head><body>");
  fputs("<p>Welcome, ", stdout);
  if ((value = field(query, "name", &end))) text(value, end);
  puts("!</p><ol>");
  long count = (value = field(query, "count", &end)) ? strtol(value, NULL, 10) : 10;
  uint32_t state = 1;
  for (long i = 0; i < count; i++) {
    state = state * 1664525u + 1013904223u;
    printf("<li>%u</li>\n", state >> 12);
  }
  puts("</ol></body></html>");
  return 0;
}
