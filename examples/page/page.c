/* A web page for the `wagi` interface: CGI variables in, headers and HTML out (RFC 3875). */
#include <stdio.h>
#include <stdlib.h>

static const char *variable(const char *name) {
  const char *value = getenv(name);
  return value ? value : "";
}

/* What a client sent must not become markup. */
static void text(const char *value) {
  for (; *value; value++) switch (*value) {
      case '&': fputs("&amp;", stdout); break;
      case '<': fputs("&lt;", stdout); break;
      case '>': fputs("&gt;", stdout); break;
      case '"': fputs("&quot;", stdout); break;
      default: putchar(*value);
    }
}

static void row(const char *name) {
  printf("<tr><th>%s</th><td>", name);
  text(variable(name));
  puts("</td></tr>");
}

int main(void) {
  long length = strtol(variable("CONTENT_LENGTH"), NULL, 10), seen = 0;
  while (seen < length && getchar() != EOF) seen++;

  fputs("Status: 200 OK\nContent-Type: text/html; charset=utf-8\nX-Example: page\n\n", stdout);
  puts("<!doctype html><title>A page from WebAssembly</title>");
  puts("<h1>A page from WebAssembly</h1><table>");
  row("REQUEST_METHOD");
  row("PATH_INFO");
  row("QUERY_STRING");
  row("HTTP_HOST");
  row("HTTP_USER_AGENT");
  row("CONTENT_TYPE");
  puts("</table>");
  printf("<p>The body had %ld bytes.</p>\n", seen);
  return 0;
}
