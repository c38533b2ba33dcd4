B = {n: b"x" * n for n in (6000, 12000, 24000, 48000)}
def app(e, sr):
    b = B[int(e["PATH_INFO"][1:])]
    sr("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(b)))])
    return [b]
