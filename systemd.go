package main

// What systemd and its like agree on with a service (sd_notify(3), sd_listen_fds(3)): a datagram that says how it is doing,
// and sockets that are open before it starts. Without their environment variables nothing here does anything.

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// fromSystemd is -listen's word for inherited sockets.
const fromSystemd = "systemd"

const (
	firstInherited = 3  // descriptors 0 to 2 are the standard streams
	maxInherited   = 16 // sockets
)

// sdNotify tells the service manager a state, such as READY=1. A name that begins with @ is an abstract socket.
func sdNotify(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("telling the service manager %s: %w", state, err)
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("telling the service manager %s: %w", state, err)
	}
	return nil
}

// sdWatchdog returns how often the service manager wants to hear from us (WatchdogSec=), twice as often to be sure; 0: not.
func sdWatchdog() time.Duration {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	pid := os.Getenv("WATCHDOG_PID")
	if err != nil || usec <= 0 || usec > int64(24*time.Hour/time.Microsecond) || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond / 2
}

// sdListeners takes the TCP sockets that were opened for us.
func sdListeners() (all []net.Listener, err error) {
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 1 || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, errors.New("no socket was handed over (LISTEN_FDS, LISTEN_PID): start this as the service of a .socket unit, or name an address with -listen")
	}
	if n > maxInherited {
		return nil, fmt.Errorf("%d sockets were handed over: %d at most", n, maxInherited)
	}
	for fd := firstInherited; fd < firstInherited+n; fd++ {
		f := os.NewFile(uintptr(fd), "socket "+strconv.Itoa(fd))
		var l net.Listener
		if l, err = net.FileListener(f); err == nil {
			if _, tcp := l.(*net.TCPListener); !tcp {
				l.Close()
				err = errors.New("not a listening TCP socket")
			}
		}
		f.Close()
		if err != nil {
			closeAll(all)
			return nil, fmt.Errorf("the socket handed over as descriptor %d: %w", fd, err)
		}
		all = append(all, l)
	}
	return all, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}
