package main

import (
	"fmt"
	"net"
	"os"
	"testing"
	"time"
)

// TestAbstractNotify: a NOTIFY_SOCKET that begins with @ is a name outside the file system (sd_notify(3)).
func TestAbstractNotify(t *testing.T) {
	name := fmt.Sprintf("@securechat-test-%d", os.Getpid())
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	t.Setenv("NOTIFY_SOCKET", name)
	if err := sdNotify("READY=1"); err != nil {
		t.Fatal(err)
	}
	told.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 100)
	if n, err := told.Read(b); err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("%q, %v", b[:n], err)
	}
}
