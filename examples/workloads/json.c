/* Parses the JSON text (RFC 8259) on stdin into a tree, and prints it without white space. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEEPEST = 256 };

typedef struct Value Value;
struct Value {
  char kind;        /* one of { [ " and, for a number or a word, 0 */
  const char *text; /* of what has no parts: as it stands in the source */
  size_t length;
  Value *key, *part, *next;
};

static const char *at, *end;

static void fail(const char *why) {
  fprintf(stderr, "json: %s\n", why);
  exit(2);
}

static int peek(void) {
  while (at < end && strchr(" \t\r\n", *at)) at++;
  return at < end ? (unsigned char)*at : -1;
}

static Value *make(char kind) {
  Value *value = calloc(1, sizeof *value);
  if (!value) fail("not enough memory");
  value->kind = kind;
  value->text = at;
  return value;
}

static Value *string(void) {
  if (peek() != '"') fail("a string is missing");
  Value *value = make('"');
  for (at++; at < end && *at != '"'; at++) {
    if ((unsigned char)*at < ' ') fail("a control character in a string");
    if (*at == '\\' && (++at == end || !strchr("\"\\/bfnrtu", *at))) fail("a wrong escape");
  }
  if (at++ == end) fail("a string does not end");
  value->length = (size_t)(at - value->text);
  return value;
}

static int digits(void) {
  const char *begin = at;
  while (at < end && isdigit((unsigned char)*at)) at++;
  return at > begin;
}

static Value *number(void) {
  Value *value = make(0);
  if (*at == '-') at++;
  if (at < end && *at == '0') at++;
  else if (!digits()) fail("a value is missing");
  if (at < end && *at == '.' && (at++, !digits())) fail("a wrong number");
  if (at < end && (*at == 'e' || *at == 'E')) {
    at++;
    if (at < end && (*at == '+' || *at == '-')) at++;
    if (!digits()) fail("a wrong number");
  }
  value->length = (size_t)(at - value->text);
  return value;
}

static Value *word(const char *text) {
  Value *value = make(0);
  value->length = strlen(text);
  if ((size_t)(end - at) < value->length || memcmp(at, text, value->length)) fail("an unknown word");
  at += value->length;
  return value;
}

static Value *parse(int depth) {
  if (depth > DEEPEST) fail("too deep");
  int kind = peek();
  switch (kind) {
    case '"': return string();
    case 't': return word("true");
    case 'f': return word("false");
    case 'n': return word("null");
    case '{':
    case '[': break;
    case -1: fail("the text ends too early");
    default: return number();
  }
  char close = kind == '{' ? '}' : ']';
  Value *value = make((char)kind), **last = &value->part;
  at++;
  if (peek() == close) return at++, value;
  for (;;) {
    Value *key = NULL;
    if (kind == '{') {
      key = string();
      if (peek() != ':') fail("a colon is missing");
      at++;
    }
    *last = parse(depth + 1);
    (*last)->key = key;
    last = &(*last)->next;
    int after = peek();
    at++;
    if (after == close) return value;
    if (after != ',') fail("a comma is missing");
  }
}

static void print(const Value *value) {
  if (value->kind != '{' && value->kind != '[') {
    fwrite(value->text, 1, value->length, stdout);
    return;
  }
  putchar(value->kind);
  for (const Value *part = value->part; part; part = part->next) {
    if (part->key) print(part->key), putchar(':');
    print(part);
    if (part->next) putchar(',');
  }
  putchar(value->kind == '{' ? '}' : ']');
}

int main(void) {
  size_t size = 0, room = 1 << 16;
  char *in = malloc(room);
  for (ssize_t got; in && (got = read(0, in + size, room - size)) > 0;)
    if ((size += (size_t)got) == room) in = realloc(in, room *= 2);
  if (!in) fail("not enough memory");
  at = in, end = in + size;
  Value *value = parse(0);
  if (peek() != -1) fail("something stands after the value");
  print(value);
  return 0;
}
