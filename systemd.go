package main

// The interface to a service manager such as systemd (sd_notify(3), sd_listen_fds(3)): datagrams that report the
// service's state, the watchdog, and sockets that the manager opens before it starts the service. Without the
// environment variables of such a manager, notifying does nothing and there is no watchdog.

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// fromSystemd is the argument of -listen for inherited sockets.
const fromSystemd = "systemd"

const (
	firstInherited = 3  // descriptors 0 to 2 are the standard streams
	maxInherited   = 16 // sockets
)

// sdNotify sends a state, such as READY=1, to the service manager. Its socket is abstract if its name begins with @.
func sdNotify(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notifying the service manager of %s: %w", state, err)
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("notifying the service manager of %s: %w", state, err)
	}
	return nil
}

// sdWatchdog returns the interval at which to report to the watchdog, which is half of WatchdogSec=, or 0 for no
// watchdog.
func sdWatchdog() time.Duration {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 || usec > int64(24*time.Hour/time.Microsecond) {
		return 0
	}
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond / 2
}

// sdListeners returns the TCP sockets that the service manager opened.
func sdListeners() (all []net.Listener, err error) {
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 1 || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, errors.New("no socket was inherited (LISTEN_FDS, LISTEN_PID): " +
			"start this program as the service of a .socket unit, or name an address with -listen")
	}
	if n > maxInherited {
		return nil, fmt.Errorf("%d sockets were inherited; at most %d can be served", n, maxInherited)
	}
	for fd := firstInherited; fd < firstInherited+n; fd++ {
		l, err := inheritedListener(fd)
		if err != nil {
			closeAll(all)
			return nil, fmt.Errorf("the socket inherited as descriptor %d: %w", fd, err)
		}
		all = append(all, l)
	}
	return all, nil
}

// inheritedListener returns the listening TCP socket that descriptor fd is, and closes the descriptor.
func inheritedListener(fd int) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), "socket "+strconv.Itoa(fd))
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	if _, tcp := l.(*net.TCPListener); !tcp {
		l.Close()
		return nil, errors.New("not a listening TCP socket")
	}
	return l, nil
}

// closeAll closes listeners.
func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}
