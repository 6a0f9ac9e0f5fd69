/*
 * Drives llama.cpp through its public C interface for `make bench-engine` and `make bench-gpu`.
 *
 *     llama_peer MODEL BACKENDS_DIR [DEVICE]
 *
 * Loads the model, all of its layers on the graphics processor of this name if one is given; answers one
 * command a line on standard input with one line on standard output:
 *
 *     load                      load + tokenize + prefill 16 + first token, from scratch: ms
 *     prefill THREADS N         one prompt of N tokens: ms
 *     decode THREADS DEPTH N    N greedy tokens after DEPTH prompt tokens: ms for the N
 *     batch THREADS B N         B sequences, N greedy tokens each: ms for all
 *     rss                       peak resident memory: KiB
 *
 * Token ids are taken from a fixed pattern, the same that the other side uses. Errors end the
 * process with status 1 and a line on standard error.
 */
#define _POSIX_C_SOURCE 199309L
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "ggml-backend.h"
#include "llama.h"

enum { CONTEXT = 4096, SEQUENCES = 8, VOCABULARY_USED = 20000, FIRST_ID = 100, LAYERS_MAX = 999 };

static struct llama_model * model;
static struct llama_context * context;
static struct llama_batch batch;
/* Where the layers are, then NULL; empty: on the processor. */
static ggml_backend_dev_t devices[2];

static void die(const char * format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
}

/* Lets errors pass, and how many layers are on the device. */
static void quiet(enum ggml_log_level level, const char * text, void * user) {
    (void) user;
    if (level == GGML_LOG_LEVEL_ERROR || strstr(text, "offloaded ")) fputs(text, stderr);
}

/* The i-th token of the benchmark's prompt of sequence s. */
static llama_token pattern(int s, int i) {
    return FIRST_ID + (llama_token) (((unsigned) i * 7919u + (unsigned) s * 104729u) % VOCABULARY_USED);
}

static void choose_device(const char * name) {
    size_t n = ggml_backend_dev_count();
    for (size_t i = 0; i < n && !devices[0]; i++) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        bool is_gpu = ggml_backend_dev_type(device) != GGML_BACKEND_DEVICE_TYPE_CPU;
        if (is_gpu && !strcmp(ggml_backend_dev_description(device), name)) devices[0] = device;
    }
    if (!devices[0]) die("llama.cpp has no device %s (GGML_VK_VISIBLE_DEVICES says which it takes)", name);
    fprintf(stderr, "llama.cpp runs on %s: %s\n", ggml_backend_dev_name(devices[0]), name);
}

static void open_model(const char * path) {
    struct llama_model_params mp = llama_model_default_params();
    if (devices[0]) {
        mp.devices = devices;
        mp.n_gpu_layers = LAYERS_MAX;
    }
    model = llama_model_load_from_file(path, mp);
    if (!model) die("can't load %s", path);
}

/* Makes sure the context is one for this many sequences, each with a cache of its own (the faster way). */
static void open_context(int sequences) {
    static int sequences_now;
    if (context && sequences == sequences_now) return;
    if (context) llama_free(context);
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = CONTEXT;
    cp.n_seq_max = sequences_now = sequences;
    cp.kv_unified = false;
    cp.no_perf = true;
    context = llama_init_from_model(model, cp);
    if (!context) die("can't make a context of %d tokens", CONTEXT);
}

static void close_all(void) {
    if (context) llama_free(context);
    context = NULL;
    llama_model_free(model);
}

static void add(llama_token token, int position, int sequence, bool logits) {
    int i = batch.n_tokens++;
    batch.token[i] = token;
    batch.pos[i] = position;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = sequence;
    batch.logits[i] = logits;
}

static void run(void) {
    int status = llama_decode(context, batch);
    if (status) die("llama_decode of %d tokens: status %d", batch.n_tokens, status);
}

static llama_token argmax(int row) {
    const float * logits = llama_get_logits_ith(context, row);
    int n = llama_vocab_n_tokens(llama_model_get_vocab(model)), best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static void reset(int threads, int sequences) {
    open_context(sequences);
    llama_memory_clear(llama_get_memory(context), true);
    llama_set_n_threads(context, threads, threads);
}

/* Prefills `n` tokens of each of the first `sequences` sequences; leaves their last rows' logits. */
static void prefill(int sequences, int n) {
    batch.n_tokens = 0;
    for (int s = 0; s < sequences; s++)
        for (int i = 0; i < n; i++) add(pattern(s, i), i, s, i == n - 1);
    run();
}

static double time_prefill(int threads, int n) {
    reset(threads, 1);
    double start = now_ms();
    prefill(1, n);
    argmax(n - 1);
    return now_ms() - start;
}

static double time_decode(int threads, int sequences, int depth, int n) {
    reset(threads, sequences);
    prefill(sequences, depth);
    llama_token next[SEQUENCES];
    for (int s = 0; s < sequences; s++) next[s] = argmax((s + 1) * depth - 1);
    double start = now_ms();
    for (int i = 0; i < n; i++) {
        batch.n_tokens = 0;
        for (int s = 0; s < sequences; s++) add(next[s], depth + i, s, true);
        run();
        for (int s = 0; s < sequences; s++) next[s] = argmax(s);
    }
    return now_ms() - start;
}

static double time_load(const char * path) {
    close_all();
    double start = now_ms();
    open_model(path);
    reset(2, 1);
    const char * text = "The quick brown fox jumps over the lazy dog and runs away from it, fast";
    llama_token tokens[64];
    int n = llama_tokenize(llama_model_get_vocab(model), text, strlen(text), tokens, 64, false, false);
    if (n <= 0) die("tokenize: %d", n);
    batch.n_tokens = 0;
    for (int i = 0; i < n; i++) add(tokens[i], i, 0, i == n - 1);
    run();
    argmax(n - 1);
    return now_ms() - start;
}

int main(int argc, char ** argv) {
    if (argc != 3 && argc != 4) die("usage: llama_peer MODEL BACKENDS_DIR [DEVICE]");
    llama_log_set(quiet, NULL);
    ggml_backend_load_all_from_path(argv[2]);
    llama_backend_init();
    if (argc == 4) choose_device(argv[3]);
    batch = llama_batch_init(CONTEXT, 0, 1);
    open_model(argv[1]);
    puts("ready");
    fflush(stdout);

    char line[128];
    while (fgets(line, sizeof line, stdin)) {
        int threads, a, b;
        double answer;
        if (!strncmp(line, "load", 4)) answer = time_load(argv[1]);
        else if (sscanf(line, "prefill %d %d", &threads, &a) == 2) answer = time_prefill(threads, a);
        else if (sscanf(line, "decode %d %d %d", &threads, &a, &b) == 3) answer = time_decode(threads, 1, a, b);
        else if (sscanf(line, "batch %d %d %d", &threads, &a, &b) == 3) {
            if (a > SEQUENCES) die("at most %d sequences", SEQUENCES);
            answer = time_decode(threads, a, 16, b);
        } else if (!strncmp(line, "rss", 3)) {
            struct rusage usage;
            getrusage(RUSAGE_SELF, &usage);
            answer = (double) usage.ru_maxrss;
        } else {
            die("unknown command: %s", line);
        }
        printf("%.3f\n", answer);
        fflush(stdout);
    }
    close_all();
    return 0;
}
