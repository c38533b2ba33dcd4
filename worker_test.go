package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A client that takes its response in sips fills the buffers over and over;
// what it gets is whole, and nothing grows with the response.
func TestResponseInSips(t *testing.T) {
	dir := t.TempDir()
	app := `
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return (bytes([i % 251]) * 100003 for i in range(400))
`
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte(app), 0o644); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, dir, "app:app")
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(32 << 10)
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 32<<10), nil)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 100003)
	for i := range 400 {
		if i%20 == 0 {
			time.Sleep(20 * time.Millisecond) // the server's buffers fill meanwhile
		}
		if _, err := io.ReadFull(resp.Body, block); err != nil {
			t.Fatalf("block %d: %v", i, err)
		}
		for _, b := range block {
			if b != byte(i%251) {
				t.Fatalf("block %d has %d", i, b)
			}
		}
	}
	if n, err := resp.Body.Read(block); n != 0 || err != io.EOF {
		t.Fatalf("%d bytes more, %v", n, err)
	}
}
