/* `graph bfs|mst|pagerank VERTICES DEGREE`: an algorithm on a random graph, which is connected. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int from, to; uint32_t weight; } Edge;

static int vertices, edges, *first, *target;
static Edge *edge;
static uint32_t state = 1;

static uint32_t random32(void) {
  state ^= state << 13, state ^= state >> 17, state ^= state << 5;
  return state;
}

static void generate(int degree) {
  edges = vertices * degree;
  edge = malloc(sizeof *edge * (size_t)edges);
  first = calloc((size_t)vertices + 2, sizeof *first);
  target = malloc(sizeof *target * 2 * (size_t)edges);
  if (!edge || !first || !target) exit(1);
  for (int i = 0; i < edges; i++) {
    int from = i % vertices;
    /* The first edge of each vertex leads to one before it, so that all are connected. */
    int to = i < vertices ? (from ? (int)(random32() % (uint32_t)from) : 0) : (int)(random32() % (uint32_t)vertices);
    edge[i] = (Edge){from, to, random32() % 1000000};
    first[from + 2]++, first[to + 2]++;
  }
  for (int i = 2; i < vertices + 2; i++) first[i] += first[i - 1];
  for (int i = 0; i < edges; i++) {
    target[first[edge[i].from + 1]++] = edge[i].to;
    target[first[edge[i].to + 1]++] = edge[i].from;
  }
}

static void bfs(void) {
  int *distance = malloc(sizeof *distance * (size_t)vertices), *queue = malloc(sizeof *queue * (size_t)vertices);
  if (!distance || !queue) exit(1);
  memset(distance, -1, sizeof *distance * (size_t)vertices);
  int done = 0, known = 0;
  long long sum = 0;
  distance[0] = 0, queue[known++] = 0;
  while (done < known) {
    int here = queue[done++];
    sum += distance[here];
    for (int i = first[here]; i < first[here + 1]; i++)
      if (distance[target[i]] < 0) distance[target[i]] = distance[here] + 1, queue[known++] = target[i];
  }
  printf("reached %d, sum of distances %lld\n", known, sum);
}

static int by_weight(const void *left, const void *right) {
  uint32_t a = ((const Edge *)left)->weight, b = ((const Edge *)right)->weight;
  return (a > b) - (a < b);
}

static int *parent;

static int root(int of) {
  while (parent[of] != of) of = parent[of] = parent[parent[of]];
  return of;
}

static void mst(void) {
  parent = malloc(sizeof *parent * (size_t)vertices);
  if (!parent) exit(1);
  for (int i = 0; i < vertices; i++) parent[i] = i;
  qsort(edge, (size_t)edges, sizeof *edge, by_weight);
  long long sum = 0;
  int taken = 0;
  for (int i = 0; i < edges; i++) {
    int a = root(edge[i].from), b = root(edge[i].to);
    if (a != b) parent[a] = b, sum += edge[i].weight, taken++;
  }
  printf("edges %d, weight %lld\n", taken, sum);
}

static void pagerank(void) {
  double *rank = malloc(sizeof *rank * (size_t)vertices), *next = malloc(sizeof *next * (size_t)vertices);
  if (!rank || !next) exit(1);
  for (int i = 0; i < vertices; i++) rank[i] = 1.0 / vertices;
  for (int round = 0; round < 20; round++) {
    for (int i = 0; i < vertices; i++) next[i] = 0.15 / vertices;
    for (int i = 0; i < vertices; i++)
      for (int k = first[i]; k < first[i + 1]; k++) next[target[k]] += 0.85 * rank[i] / (first[i + 1] - first[i]);
    double *swap = rank;
    rank = next, next = swap;
  }
  int best = 0;
  for (int i = 1; i < vertices; i++)
    if (rank[i] > rank[best]) best = i;
  printf("best %d, rank %.9f\n", best, rank[best]);
}

int main(int argc, char **argv) {
  vertices = argc == 4 ? atoi(argv[2]) : 0;
  int degree = argc == 4 ? atoi(argv[3]) : 0;
  if (vertices < 1 || vertices > 1000000 || degree < 1 || degree > 64) {
    fputs("usage: graph bfs|mst|pagerank VERTICES DEGREE\n", stderr);
    return 2;
  }
  generate(degree);
  if (!strcmp(argv[1], "bfs")) bfs();
  else if (!strcmp(argv[1], "mst")) mst();
  else if (!strcmp(argv[1], "pagerank")) pagerank();
  else return 2;
  return 0;
}
