/* Compresses stdin to a zlib stream (RFC 1950, 1951): LZ77 over hash chains, fixed Huffman codes. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { WINDOW = 32768, HASHES = 32768, CHAIN = 64, SHORTEST = 3, LONGEST = 258 };

static uint8_t *out;
static size_t out_size;
static uint32_t bits;
static int bit_count;

/* Numbers go out with their lowest bit first; Huffman codes are given reversed. */
static void put(uint32_t value, int count) {
  bits |= value << bit_count;
  for (bit_count += count; bit_count >= 8; bit_count -= 8, bits >>= 8) out[out_size++] = (uint8_t)bits;
}

static void put_code(uint32_t code, int count) {
  uint32_t reversed = 0;
  for (int i = 0; i < count; i++) reversed |= (code >> i & 1) << (count - 1 - i);
  put(reversed, count);
}

static void put_symbol(int symbol) {
  if (symbol < 144) put_code(0x30 + symbol, 8);
  else if (symbol < 256) put_code(0x190 + symbol - 144, 9);
  else if (symbol < 280) put_code(symbol - 256, 7);
  else put_code(0xc0 + symbol - 280, 8);
}

/* Lengths and distances come in ranges that double every `step` codes. */
static void put_match(int length, int distance) {
  if (length == LONGEST) {
    put_symbol(285);
  } else {
    int rest = length - 3, extra = 0;
    while (rest >> extra >= 8) extra++;
    put_symbol(257 + 4 * extra + (rest >> extra));
    put(rest & ((1 << extra) - 1), extra);
  }
  int rest = distance - 1, extra = 0;
  while (rest >> extra >= 4) extra++;
  put_code(2 * extra + (rest >> extra), 5);
  put(rest & ((1 << extra) - 1), extra);
}

static uint32_t hash(const uint8_t *at) {
  return (at[0] << 16 | at[1] << 8 | at[2]) * 2654435761u >> 17;
}

static void compress(const uint8_t *in, int size) {
  static int head[HASHES], before[WINDOW];
  for (int i = 0; i < HASHES; i++) head[i] = -1;
  put(1, 1); /* the last block */
  put(1, 2); /* fixed codes */
  for (int at = 0; at < size;) {
    int best = 0, distance = 0, most = size - at < LONGEST ? size - at : LONGEST;
    if (most >= SHORTEST) {
      int candidate = head[hash(in + at)];
      for (int tries = CHAIN; candidate >= 0 && at - candidate <= WINDOW - 1 && tries; tries--) {
        int length = 0;
        while (length < most && in[candidate + length] == in[at + length]) length++;
        if (length > best) best = length, distance = at - candidate;
        candidate = before[candidate % WINDOW];
      }
    }
    int taken = best >= SHORTEST ? best : 1;
    if (taken > 1) put_match(best, distance);
    else put_symbol(in[at]);
    for (; taken; taken--, at++)
      if (size - at >= SHORTEST) {
        uint32_t slot = hash(in + at);
        before[at % WINDOW] = head[slot];
        head[slot] = at;
      }
  }
  put_symbol(256);
  if (bit_count) put(0, 8 - bit_count);
}

int main(void) {
  size_t size = 0, room = 1 << 16;
  uint8_t *in = malloc(room);
  for (ssize_t got; in && (got = read(0, in + size, room - size)) > 0;)
    if ((size += (size_t)got) == room) in = realloc(in, room *= 2);
  out = malloc(size + size / 8 + 64); /* a literal takes nine bits at most */
  if (!in || !out || size > 1 << 30) return 1;
  out[out_size++] = 0x78, out[out_size++] = 0x01;
  compress(in, (int)size);
  uint32_t a = 1, b = 0; /* Adler-32 */
  for (size_t i = 0; i < size; i++) a = (a + in[i]) % 65521, b = (b + a) % 65521;
  for (int i = 3; i >= 0; i--) out[out_size++] = (uint8_t)((b << 16 | a) >> 8 * i);
  return fwrite(out, 1, out_size, stdout) != out_size;
}
