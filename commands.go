package main

// Commands at a terminal (DESIGN section 6). Piped input knows none: there, every line is text.

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	clientHelp = `/who              who is here
/msg NAME TEXT    say TEXT to NAME alone
/me TEXT          say what you do
/quit             leave; so do an empty line, Ctrl-D and Ctrl-C
//TEXT            a line that begins with one slash`
	operatorHelp = `/who              who is here
/msg NAME TEXT    say TEXT to NAME alone
/me TEXT          say what you do
/kick NAME        let NAME go
/invite NAME      make a one-time code that lets NAME in
/allow [NAME]     let in the key that was refused
/quit             close the room; so do Ctrl-D and Ctrl-C
//TEXT            a line that begins with one slash`
)

// parseCommand splits a typed line: text is to be said as it is, or name is a command and text what follows it.
func parseCommand(line []byte) (name, text string) {
	s := string(line)
	if strings.HasPrefix(s, "//") {
		return "", s[1:]
	}
	if !strings.HasPrefix(s, "/") {
		return "", s
	}
	name, text, _ = strings.Cut(s[1:], " ")
	return "/" + name, strings.TrimSpace(text)
}

// saying does the commands that say something; ok is false for every other command.
func saying(name, text string) (out outLine, problem string, ok bool) {
	switch name {
	case "":
		return outLine{what: itemSay, text: []byte(text)}, "", true
	case "/me":
		if text == "" {
			return out, "/me TEXT says what you do", true
		}
		return outLine{what: itemAction, text: []byte(text)}, "", true
	case "/msg":
		to, text, _ := strings.Cut(text, " ")
		text = strings.TrimSpace(text)
		if to == "" || text == "" || len(to) > maxShown {
			return out, "/msg NAME TEXT says TEXT to NAME alone", true
		}
		return outLine{what: itemDirect, to: to, text: []byte(text)}, "", true
	}
	return out, "", false
}

// command does what a client's person typed: out is to be sent if send is set.
func (c *client) command(line []byte) (out outLine, send, quit bool) {
	name, text := parseCommand(line)
	out, problem, ok := saying(name, text)
	switch {
	case problem != "":
		c.console.tell("%s", problem)
	case ok:
		return out, true, false
	case name == "/who":
		c.asks.Store(true)
		poke(c.box.wake)
	case name == "/quit":
		return out, false, true
	case name == "/help":
		c.console.tell("%s", clientHelp)
	default:
		c.console.tell("there is no %s here; /help lists the commands, and //… sends a line that begins with a slash", name)
	}
	return out, false, false
}

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
	g, err := s.trust.allow([]byte(publicLine(key, "")), name)
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

// completions returns what the word before pos can become: commands at the start of a line, else names.
func completions(line string, pos int, commands string, names []string) (words []string) {
	word := line[:pos]
	if at := strings.LastIndexByte(word, ' '); at >= 0 {
		word = word[at+1:]
	} else if strings.HasPrefix(word, "/") {
		for help := range strings.SplitSeq(commands, "\n") {
			if c, _, _ := strings.Cut(help, " "); strings.HasPrefix(c, word) && !strings.HasPrefix(c, "//") {
				words = append(words, c)
			}
		}
		return words
	}
	for _, n := range names {
		if strings.HasPrefix(strings.ToLower(n), strings.ToLower(word)) {
			words = append(words, n)
		}
	}
	return words
}
