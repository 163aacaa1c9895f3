package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// The operator's side of a server: the console as a member of the room, and the operator's commands.

// command does what the operator typed.
func (s *server) command(line []byte) (what byte, to string, text []byte, send bool) {
	name, arg := parseCommand(line)
	out, problem, ok := saying(name, arg)
	var err error
	switch {
	case problem != "":
		s.console.tell("%s", problem)
	case ok:
		return out.what, out.to, out.text, true
	case name == "/who":
		s.console.tell("* %s", whoLine(s.room.names()))
	case name == "/quit":
		s.console.quit()
	case name == "/help":
		s.console.tell("%s", operatorHelp)
	case s.trust == nil && (name == "/invite" || name == "/allow"):
		s.console.tell("-paper knows its clients by -peer alone: end the server and name the key there")
	case name == "/kick":
		err = s.room.kick(arg)
	case name == "/invite":
		err = makeInvite(s.trust, s.console, arg, s.port)
	case name == "/allow":
		err = s.allowStranger(arg)
	default:
		s.console.tell("there is no %s here; /help lists the commands, and //… sends a line that begins with a slash", name)
	}
	if err != nil {
		s.console.note("%v", err)
	}
	return 0, "", nil, false
}

// strangers are the keys turned away because nobody had listed them, for /allow; the latest last.
type strangers struct {
	mu   sync.Mutex
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

// pick returns the one stranger, or the one with this fingerprint. It never picks among several: somebody may be knocking
// just to be the last when /allow is typed.
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

// allowStranger lists a key that was refused, under a name or one made of the key, and records it.
func (s *server) allowStranger(arg string) error {
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
	key, err := s.strangers.pick(print)
	if err != nil {
		return err
	}
	if name == "" {
		name = "guest-" + nameSuffix(key)
	}
	g, err := s.trust.allow([]byte(publicLine(key, "")), name, false)
	if errors.Is(err, errListed) {
		s.strangers.drop(key)
	}
	if err != nil {
		return err
	}
	s.strangers.drop(key)
	s.console.note("%s may join now (%s, %s)", g.name, g.fingerprint, g.by)
	who := newLogPerson("", g.name, g.fingerprint, "", nil)
	now := time.Now()
	s.log.record(func(b []byte) []byte { return appendRecord(b, now, eventAllow, who, "by", g.by) }, nil)
	return nil
}

// operator makes the server's own console a member of the room.
func (s *server) operator() *member {
	m := &member{name: s.name, base: s.name, suffix: nameSuffix(s.id), fingerprint: fingerprint(s.id), listens: true, wake: make(chan struct{}, 1)}
	rand.Read(m.stream[:])
	m.log = newLogPerson("console", m.name, m.fingerprint, m.stream.String(), nil)
	s.room.mu.Lock()
	m.recorded = s.room.streamLocked(m.fingerprint, m.stream)
	m.recorded.here++
	m.next = s.room.first + uint64(len(s.room.items))
	s.room.members[m] = struct{}{}
	s.room.mu.Unlock()
	if s.console.term != nil {
		s.console.term.setPrompt(s.console.prompt(s.name))
		s.console.term.complete = func(line string, pos int) []string { return completions(line, pos, operatorHelp, s.room.names()) }
	}
	go s.typed(m)
	return m
}

// typed hands the operator's lines to the room. The end of standard input ends nothing.
func (s *server) typed(m *member) {
	var n uint64
	for {
		line, _, err := s.console.read()
		if err == errInterrupt || err == io.EOF && s.console.term != nil {
			s.console.quit()
			return
		}
		var long errLongLine
		if errors.As(err, &long) {
			s.console.fault(err)
			continue
		}
		if err != nil {
			if err != io.EOF {
				s.console.note("reading standard input: %v; the room stays open", err)
			}
			return
		}
		typed := lines{first: n + 1, what: itemSay, texts: [][]byte{line}}
		if s.console.json {
			said, from, err := parseSaid(line, outLine{what: itemSay}, s.console.origin)
			if err != nil {
				s.console.fault(err)
				continue
			}
			if said.text == nil {
				continue // an object that says nothing
			}
			typed.what, typed.to, typed.from, typed.texts[0] = said.what, said.to, from, said.text
		}
		if s.console.term != nil {
			if len(line) == 0 {
				continue
			}
			var send bool
			if typed.what, typed.to, typed.texts[0], send = s.command(line); !send {
				continue
			}
		}
		n++
		if err := s.room.say(m, typed); err != nil {
			s.console.note("not sent: %v", err)
			n--
		}
	}
}

// show prints the room on the server's console until the room lets it go.
func (s *server) show(m *member) {
	var items [][]byte
	var acked uint64
	err := s.console.welcome(s.name, false)
	for {
		var ending string
		var missed, ack uint64
		items, ack, missed, ending = s.room.take(m, items[:0])
		if missed > 0 {
			s.console.note("%d lines came faster than they could be shown; they are in the log", missed)
		}
		for _, enc := range items {
			var it item
			if err == nil {
				it, _, err = cutItem(enc)
			}
			if err == nil {
				err = s.console.show(it)
			}
		}
		if err == nil && ack > acked {
			acked = ack
			err = s.console.acked(ack)
		}
		if err == nil {
			err = s.console.flush()
		}
		if err != nil {
			s.console.note("cannot write standard output: %v; the room stays open", err)
			s.room.mute(m)
			return
		}
		if len(items) == 0 {
			if ending != "" {
				return
			}
			<-m.wake
		}
	}
}

const inviteWords = "An invite for %s, good once and for a day. On the other machine, run\n  securechat -connect %s -join\nand paste this code when it asks:"

// makeInvite makes a code and shows the operator what the other side does with it.
func makeInvite(t *trust, c *console, name, port string) error {
	code, err := t.newInvite(name, time.Now())
	if err == nil {
		c.tell(inviteWords+"\n  %s", name, publicAddress(port), code)
	}
	return err
}

// publicAddress is this machine's address as others may write it.
func publicAddress(port string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "HOST"
	}
	return net.JoinHostPort(host, port)
}
