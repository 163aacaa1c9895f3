package main

// The operator's side of a server: the console as a member of the room, and the operator's commands.

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// operator is the person at the server's console, or the programs on its standard streams. One goroutine reads standard
// input, and another one prints what the room delivers.
type operator struct {
	console   *console
	room      *room
	member    *member
	trust     *trust // nil with -paper
	strangers *strangers
	name      string
	addr      string    // that the server listens on
	stop      func()    // stops the server
	asked     time.Time // when Ctrl-C or Ctrl-D was answered with the number of the others here
}

// A second Ctrl-C or Ctrl-D within closeAgain closes the room although others are here.
const closeAgain = 10 * time.Second

// newOperator makes the console a member of the room, as self.
func newOperator(c *console, r *room, t *trust, refused *strangers, self *peer, addr string, stop func()) *operator {
	o := &operator{console: c, room: r, trust: t, strangers: refused, name: self.name, addr: addr, stop: stop}
	o.member = newMember(self, o)
	r.enterOperator(o.member)
	if c.term != nil {
		readCommands(c, operatorHelp, r.names)
	}
	c.enterRoom(o.name)
	return o
}

// show prints the room on the console until the room closes. An error of standard output does not close the room.
func (o *operator) show() {
	err := o.console.welcome(o.room.operatorWelcome(o.member))
	if err == nil {
		o.room.start(o.member)
		err = <-o.member.written
	}
	if err != nil {
		o.console.note("cannot write standard output: %v; the room stays open", err)
		o.room.mute(o.member)
	}
}

// abort does nothing: a stuck console delays no client.
func (o *operator) abort() {}

func (o *operator) deliver(d *delivery) error {
	if d.missed > 0 {
		o.console.note("%d lines came faster than they could be shown; they are in the log", d.missed)
	}
	for _, enc := range d.items {
		it, _, err := cutItem(enc)
		if err != nil {
			return err
		}
		if err := o.console.show(it); err != nil {
			return err
		}
	}
	if d.acked > 0 {
		if err := o.console.acked(d.acked); err != nil {
			return err
		}
	}
	return o.console.flush()
}

// read sends the lines that are typed or piped in to the room. The server keeps running when its stdin ends; at a
// terminal Ctrl-D and Ctrl-C stop it.
func (o *operator) read() {
	for {
		line, pasted, err := o.console.read()
		switch {
		case err == errInterrupt || err == io.EOF && o.console.term != nil:
			if !o.mayClose(time.Now()) {
				continue
			}
			o.stop()
			return
		case errors.As(err, new(errLongLine)):
			o.console.rejectLine(err)
			continue
		case err == io.EOF:
			return
		case err != nil:
			o.console.note("reading standard input: %v; the room stays open", err)
			return
		}
		o.asked = time.Time{}
		l, ok := o.interpret(line, pasted)
		if !ok {
			continue
		}
		if err := o.room.say(o.member, l); err != nil {
			o.console.note("not sent: %v", err)
		}
	}
}

// mayClose reports whether Ctrl-C or Ctrl-D closes the room. If others are here, the first one only prints how many.
func (o *operator) mayClose(now time.Time) bool {
	others := len(slices.DeleteFunc(o.room.names(), func(name string) bool { return name == o.console.ownName() }))
	if others == 0 || now.Sub(o.asked) < closeAgain {
		return true
	}
	o.asked = now
	if others == 1 {
		o.console.notePlain("1 other is here; again to close the room")
	} else {
		o.console.notePlain("%d others are here; again to close the room", others)
	}
	return false
}

// interpret returns what a line of the operator sends. A pasted line is no command. ok is false if there is nothing to
// send: the line was a command, which interpret runs, or it cannot be sent, which interpret reports.
func (o *operator) interpret(line []byte, pasted bool) (l lines, ok bool) {
	l = lines{first: 1, what: itemSay, texts: [][]byte{line}} // the room counts the operator's lines
	switch {
	case o.console.json:
		said, from, err := parseObject(line, outLine{what: itemSay}, o.console.origin())
		if err == nil && o.console.bridge && said.text != nil && from == "" {
			err = errNotRemote
		}
		if err != nil {
			o.console.rejectLine(err)
			return l, false
		}
		l.what, l.to, l.from, l.texts[0] = said.what, said.to, from, said.text
		return l, said.text != nil
	case o.console.term != nil && !pasted:
		said, send := o.command(line)
		l.what, l.to, l.texts[0] = said.what, said.to, said.text
		return l, send && len(line) > 0
	}
	return l, true
}

// command runs what the operator typed, or returns it with send if it is to be sent.
func (o *operator) command(line []byte) (out outLine, send bool) {
	out, name, arg, err := parseTyped(line)
	switch {
	case err != nil:
		o.console.notePlain("%v", err)
		return out, false
	case name == "":
		return out, true
	case name == "/who":
		o.console.notePlain("* %s", whoLine(o.room.names()))
	case name == "/quit":
		o.stop()
	case name == "/history":
		err = o.recall(arg)
	case name == "/help":
		o.console.notePlain(operatorHelp)
	case o.trust == nil && (name == "/invite" || name == "/allow"):
		o.console.notePlain("-paper knows its clients by -peer alone: end the server and name the key there")
	case name == "/kick":
		err = o.room.kick(arg)
	case name == "/invite":
		err = makeInvite(o.trust, o.console, arg, o.addr)
	case name == "/allow":
		err = o.allowStranger(arg)
	default:
		o.console.notePlain(unknownCommand, name)
	}
	if err != nil {
		o.console.note("%s", ownLines(err.Error()))
	}
	return out, false
}

// recall shows the last messages once more, as many as arg says.
func (o *operator) recall(arg string) error {
	n, err := strconv.ParseUint(arg, 10, 32)
	if err != nil || n == 0 {
		return errors.New("/history N shows the last N messages once more")
	}
	o.room.recall(o.member, n)
	return nil
}

// allowStranger adds a key that was refused to authorized_keys, under the given name or one made of the key, and
// records that in the log.
func (o *operator) allowStranger(arg string) error {
	var name, print string
	for _, f := range strings.Fields(arg) {
		switch {
		case print == "" && strings.HasPrefix(f, "SHA256:"):
			print = f
		case name == "":
			name = f
		default:
			return errors.New("/allow [NAME] [FINGERPRINT] lets in a key that was refused")
		}
	}
	key, err := o.strangers.pick(print)
	if err != nil {
		return err
	}
	if name == "" {
		name = "guest-" + nameSuffix(key)
	}
	g, err := o.trust.allow([]byte(publicLine(key, "")), name, false)
	if err == nil || errors.Is(err, errListed) {
		o.strangers.drop(key)
	}
	if err != nil {
		return err
	}
	o.console.note("%s may join now (%s, %s)", g.name, g.fingerprint, g.by)
	who := newPeerFields("", g.name, g.fingerprint, "", nil)
	o.room.record(recordOf(time.Now(), eventAllow, who, "by", g.by))
	return nil
}

// strangers holds the unlisted keys that were refused, for /allow, the latest last.
type strangers struct {
	mu   sync.Mutex // guards keys
	keys []ssh.PublicKey
}

const maxStrangers = 5

func (s *strangers) add(key ssh.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(key)
	s.keys = append(s.keys, key)
	if len(s.keys) > maxStrangers {
		s.keys = s.keys[1:]
	}
}

func (s *strangers) drop(key ssh.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(key)
}

func (s *strangers) dropLocked(key ssh.PublicKey) {
	s.keys = slices.DeleteFunc(s.keys, func(k ssh.PublicKey) bool { return sameKey(k, key) })
}

// pick returns the only stranger, or the one with this fingerprint. Without a fingerprint it never picks one of
// several: an attacker may connect just to be the last when /allow is typed.
func (s *strangers) pick(print string) (ssh.PublicKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.keys) == 0 {
		return nil, errors.New("no unknown key has been refused since the start: securechat -allow FILE adds one by hand")
	}
	if print == "" && len(s.keys) == 1 {
		return s.keys[0], nil
	}
	var list strings.Builder
	for _, k := range s.keys {
		if fingerprint(k) == print {
			return k, nil
		}
		list.WriteString("\n  " + fingerprint(k))
	}
	if print != "" {
		return nil, fmt.Errorf("that is none of the keys refused lately, which are%s", list.String())
	}
	return nil, fmt.Errorf("several unknown keys have been refused: say which, as /allow NAME SHA256:…%s", list.String())
}

const inviteWords = "An invite for %s, good once and for a day. On the other machine, run\n" +
	"  securechat -connect %s -join\nand paste this code when it asks:"

// makeInvite makes a code and shows the operator what the other side does with it. The server listens on addr.
func makeInvite(t *trust, c *console, name, addr string) error {
	code, err := t.newInvite(name, time.Now())
	if err == nil {
		c.notePlain(inviteWords+"%s", name, publicAddress(addr), ownLines("\n  "+code))
	}
	return err
}

// publicAddress is how others may write the address that a server listens on: with this machine's name if it listens on
// all addresses.
func publicAddress(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	switch ip, err := netip.ParseAddr(host); {
	case err != nil || ip.IsUnspecified():
		host, err = os.Hostname()
		if err != nil {
			host = "HOST"
		}
	case ip == netip.AddrFrom4([4]byte{127, 0, 0, 1}), ip == netip.IPv6Loopback():
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}
