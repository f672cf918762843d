/* `chacha KEY`: encrypts stdin with ChaCha20 (RFC 8439), key of 64 hexadecimal digits, nonce and counter 0. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint32_t rotate(uint32_t value, int by) { return value << by | value >> (32 - by); }

static void quarter(uint32_t *x, int a, int b, int c, int d) {
  x[a] += x[b], x[d] = rotate(x[d] ^ x[a], 16);
  x[c] += x[d], x[b] = rotate(x[b] ^ x[c], 12);
  x[a] += x[b], x[d] = rotate(x[d] ^ x[a], 8);
  x[c] += x[d], x[b] = rotate(x[b] ^ x[c], 7);
}

static void block(uint32_t *state, uint8_t *out) {
  uint32_t x[16];
  memcpy(x, state, sizeof x);
  for (int i = 0; i < 10; i++) {
    quarter(x, 0, 4, 8, 12), quarter(x, 1, 5, 9, 13), quarter(x, 2, 6, 10, 14), quarter(x, 3, 7, 11, 15);
    quarter(x, 0, 5, 10, 15), quarter(x, 1, 6, 11, 12), quarter(x, 2, 7, 8, 13), quarter(x, 3, 4, 9, 14);
  }
  for (int i = 0; i < 16; i++) {
    uint32_t word = x[i] + state[i];
    for (int k = 0; k < 4; k++) out[4 * i + k] = (uint8_t)(word >> 8 * k);
  }
  state[12]++;
}

int main(int argc, char **argv) {
  uint32_t state[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
  if (argc != 2 || strlen(argv[1]) != 64) {
    fputs("usage: chacha KEY, of 64 hexadecimal digits\n", stderr);
    return 2;
  }
  for (int i = 0; i < 32; i++) {
    unsigned byte;
    if (sscanf(argv[1] + 2 * i, "%2x", &byte) != 1) return 2;
    state[4 + i / 4] |= (uint32_t)byte << 8 * (i % 4);
  }
  static uint8_t data[65536], key[64];
  for (size_t got; (got = fread(data, 1, sizeof data, stdin)) > 0;) {
    for (size_t i = 0; i < got; i++) {
      if (i % 64 == 0) block(state, key);
      data[i] ^= key[i % 64];
    }
    if (fwrite(data, 1, got, stdout) != got) return 1;
  }
  return 0;
}
