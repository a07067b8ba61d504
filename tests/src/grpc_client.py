"""gRPC's own xDS client, driven by lines: every line read makes one call, whose outcome is one line written."""
import sys

import grpc

channel = grpc.insecure_channel(sys.argv[1])
call = channel.unary_unary("/demo.Echo/Who")
for _ in sys.stdin:
    try:
        print("ok", call(b"", timeout=3).decode(), flush=True)
    except grpc.RpcError as error:
        print("error", error.code().name, " ".join(str(error.details()).split()), flush=True)
