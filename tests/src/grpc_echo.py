"""A gRPC server of every kind of call, and a client that tells how each of them went, one line each.

`serve` prints its port. `talk PORT AUTHORITY` calls through a proxy."""
import sys
import time
from concurrent import futures

import grpc


def unary(request, context):
    context.send_initial_metadata((("x-initial", "1"),))
    context.set_trailing_metadata((("x-trailing", "2"), ("x-bytes-bin", b"\x00\xff")))
    return request


def many(request, context):
    count, fail = request.split(b" ") if b" " in request else (request, b"")
    for n in range(int(count)):
        yield b"message %d" % n
    if fail:
        context.set_trailing_metadata((("x-why", "asked"),))
        context.abort(grpc.StatusCode.DATA_LOSS, "asked to: 100% \u00e9")


def both(requests, context):
    for request in requests:
        yield request


def count(requests, context):
    return b"%d" % sum(len(r) for r in requests)


def fail(request, context):
    context.set_trailing_metadata((("x-why", "asked"),))
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no, and a % sign")


def slow(request, context):
    left = context.time_remaining()
    if request == b"left":
        return b"a deadline" if left is not None and 20 < left <= 110 else b"none: %r" % left
    while context.is_active():
        time.sleep(0.01)
    return b""


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(16))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Many": grpc.unary_stream_rpc_method_handler(many),
        "Both": grpc.stream_stream_rpc_method_handler(both),
        "Count": grpc.stream_unary_rpc_method_handler(count),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def told(metadata):
    return sorted((k, v) for k, v in metadata or () if k.startswith("x-") and not k.startswith("x-envoy"))


def say(name, call):
    try:
        outcome = call()
    except grpc.RpcError as e:
        outcome = (e.code().name, e.details(), told(e.trailing_metadata()))
    print(name, outcome, flush=True)


def talk(port):
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_retries", 0)])
    one = lambda name, service="test.Echo": channel.unary_unary(f"/{service}/{name}")

    def call_unary():
        answer, call = one("Unary").with_call(b"hello", timeout=60)
        return answer, told(call.initial_metadata()), told(call.trailing_metadata()), call.code().name

    def call_both():
        sent, got = [], []

        def requests():
            for n in range(5):
                # Each waits for the answer to the one before: nothing may be held back on the way.
                while len(got) < n:
                    time.sleep(0.005)
                sent.append(n)
                yield b"ping %d" % n

        for answer in channel.stream_stream("/test.Echo/Both")(requests(), timeout=60):
            got.append(answer)
        return sent, got

    def call_partly():
        got = []
        try:
            for answer in channel.unary_stream("/test.Echo/Many")(b"2 fail", timeout=60):
                got.append(answer)
        except grpc.RpcError as e:
            return got, e.code().name, e.details(), told(e.trailing_metadata())
        return got

    def call_cancelled():
        call = channel.unary_stream("/test.Echo/Many")(b"1000000", timeout=60)
        first = next(call)
        call.cancel()
        return first, call.code().name

    def call_late():
        try:
            one("Slow")(b"", timeout=0.4)
        except grpc.RpcError as e:
            return e.code().name  # the client or the proxy notices first, and says so in its own words

    big = bytes(range(256)) * (3 << 12)
    say("unary", call_unary)
    say("large", lambda: one("Unary")(big, timeout=60) == big)
    say("server streaming", lambda: list(channel.unary_stream("/test.Echo/Many")(b"5", timeout=60)))
    say("client streaming", lambda: channel.stream_unary("/test.Echo/Count")(iter([b"ab"] * 7), timeout=60))
    say("both ways", call_both)
    say("trailers only", lambda: one("Fail")(b"", timeout=60))
    say("fails at the end", call_partly)
    say("cancelled", call_cancelled)
    say("deadline", call_late)
    say("deadline told", lambda: one("Slow")(b"left", timeout=100))
    say("no such method", lambda: one("None")(b"", timeout=60))
    for service in ("none", "refused", "empty", "late", "direct"):
        say(service, lambda: one("Slow", f"test.{service}")(b"", timeout=60))


if sys.argv[1] == "serve":
    serve()
else:
    talk(sys.argv[2])
