-- A POST of 64 KB for wrk.
local file = io.open(os.getenv("BENCH_POST"), "rb")
wrk.method, wrk.body = "POST", file:read("*a")
wrk.headers["Content-Type"] = "application/octet-stream"
