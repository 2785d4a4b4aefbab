"""llama.cpp as an oracle, through the ctypes bindings of llama-cpp-python 0.3.36.

Shared by the scripts beside it; not run by itself. `--llama-bin` names the folder of libllama.so
built from the same package's source, `--llama-python` the folder that holds the package
`llama_cpp` (not needed when it is installed).
"""

import argparse
import ctypes
import importlib
import importlib.util
import os
import pathlib
import sys
import types

import numpy

bindings = None


def add_flags(parser: argparse.ArgumentParser):
    parser.add_argument("--llama-bin", type=pathlib.Path, required=True, help="folder of libllama.so and the llama tools")
    parser.add_argument("--llama-python", type=pathlib.Path, help="folder that holds the package llama_cpp")


def load(arguments):
    """Imports the bindings alone: the package's own front would want more packages."""
    global bindings
    os.environ["LLAMA_CPP_LIB_PATH"] = str(arguments.llama_bin.resolve())
    if arguments.llama_python is not None:
        sys.path.insert(0, str(arguments.llama_python.resolve()))
    front = types.ModuleType("llama_cpp")
    front.__path__ = importlib.util.find_spec("llama_cpp").submodule_search_locations
    sys.modules["llama_cpp"] = front
    bindings = importlib.import_module("llama_cpp.llama_cpp")
    bindings.llama_backend_init()
    keep_quiet()


def keep_quiet():
    """Drops upstream's log, except what it calls an error."""
    @bindings.llama_log_callback
    def write(level, text, _):
        if level == 4:
            sys.stderr.write(text.decode("utf-8", "replace"))

    keep_quiet.callback = write  # must outlive the library's use of it
    bindings.llama_log_set(write, ctypes.c_void_p(0))


class Model:
    def __init__(self, path, vocab_only=False):
        parameters = bindings.llama_model_default_params()
        parameters.vocab_only = vocab_only
        parameters.n_gpu_layers = 0
        parameters.use_extra_bufts = False  # no repacking: plain dot products
        self.model = bindings.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {path}")
        self.vocab = bindings.llama_model_get_vocab(self.model)

    def close(self):
        bindings.llama_model_free(self.model)

    def tokenize(self, text: bytes, add_special=False, parse_special=False):
        room = len(text) + 16
        while True:
            ids = (ctypes.c_int32 * room)()
            count = bindings.llama_tokenize(self.vocab, text, len(text), ids, room, add_special, parse_special)
            if count >= 0:
                return list(ids[:count])
            room = -count

    def piece(self, token):
        """The bytes of one token, control tokens by their name."""
        room = 64
        while True:
            data = ctypes.create_string_buffer(room)
            count = bindings.llama_token_to_piece(self.vocab, token, data, room, 0, True)
            if count >= 0:
                return data.raw[:count]
            room = -count

    def ends_generation(self, token):
        return bindings.llama_vocab_is_eog(self.vocab, token)

    def vocab_size(self):
        return bindings.llama_vocab_n_tokens(self.vocab)

    def context(self, tokens, threads=1, cache_f32=True):
        return Context(self, tokens, threads, cache_f32)


class Context:
    """One sequence; the cache is kept in f32 so that it rounds nothing."""

    def __init__(self, model, tokens, threads, cache_f32):
        parameters = bindings.llama_context_default_params()
        parameters.n_ctx = max(tokens, 64)
        parameters.n_batch = parameters.n_ubatch = max(tokens, 64)
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.flash_attn_type = 0
        if cache_f32:
            parameters.type_k = parameters.type_v = 0
        self.model = model
        self.context = bindings.llama_init_from_model(model.model, parameters)
        assert self.context
        self.position = 0

    def close(self):
        bindings.llama_free(self.context)

    def forward(self, ids, every=True):
        """Logits (tokens, vocab) of `ids`, appended to what came before; of the last alone if not `every`."""
        count = len(ids)
        batch = bindings.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        for place, token in enumerate(ids):
            batch.token[place] = token
            batch.pos[place] = self.position + place
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = 0
            batch.logits[place] = every or place == count - 1
        status = bindings.llama_decode(self.context, batch)
        bindings.llama_batch_free(batch)
        assert status == 0, status
        self.position += count
        width = self.model.vocab_size()
        rows = count if every else 1
        places = range(count) if every else [count - 1]
        logits = numpy.empty((rows, width), dtype=numpy.float32)
        for row, place in enumerate(places):
            pointer = bindings.llama_get_logits_ith(self.context, place)
            logits[row] = numpy.ctypeslib.as_array(pointer, shape=(width,))
        return logits


def hidden_states(path, ids):
    """The last hidden states of a whole text, tokens × width, without pooling."""
    model = Model(path)
    parameters = bindings.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = max(len(ids), 64)
    parameters.n_threads = parameters.n_threads_batch = 1
    parameters.flash_attn_type = parameters.pooling_type = 0
    parameters.type_k = parameters.type_v = 0
    parameters.embeddings = True
    context = bindings.llama_init_from_model(model.model, parameters)
    assert context
    batch = bindings.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for place, token in enumerate(ids):
        batch.token[place], batch.pos[place], batch.n_seq_id[place] = token, place, 1
        batch.seq_id[place][0] = 0
        batch.logits[place] = True
    status = bindings.llama_decode(context, batch)
    assert status == 0, status
    width = bindings.llama_model_n_embd(model.model)
    rows = [numpy.ctypeslib.as_array(bindings.llama_get_embeddings_ith(context, i), shape=(width,)).copy() for i in range(len(ids))]
    bindings.llama_batch_free(batch)
    bindings.llama_free(context)
    model.close()
    return numpy.stack(rows).astype(numpy.float64)
