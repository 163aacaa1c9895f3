package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

// The command line: the flags, their usage text, and the checks of what goes together.

// commands is what there is to do: where -help and -help-all begin.
const commands = `usage:
  securechat -listen :9000                   open a room on port 9000
  securechat -connect host:9000              join it: type lines, an empty line leaves
  some-job | securechat -connect host:9000   send lines, and end when all are in the server's log
  securechat -invite anna                    make a one-time code that lets anna in (also beside -listen)
  securechat -connect host:9000 -join        use such a code: it is asked for, or taken from $SECURECHAT_INVITE
  securechat -allow FILE                     let the owner of a public key in; - reads it from a pipe
  securechat -keygen                         make the keys, and show the public one and its fingerprint
  securechat -fingerprint                    show our fingerprint
  securechat -verify-log FILE                was a log changed? Files it was rotated to go first: docs/LOG.md
`

// shortUsage is -help.
const shortUsage = commands + `
often with them:
  -dir FOLDER            keys and trust (default: $SECURECHAT_DIR, else securechat in your configuration folder)
  -log FILE              the server's log (default connection.log)
  -to NAME               everything is for NAME alone
  -stay                  go on receiving after the end of the input
  -reconnect             connect again after trouble, and send what was not acknowledged (default at a terminal)
  -json                  an object a line, in and out
  -quiet                 nothing on stderr but errors

-help-all tells the rest, securechat(1) everything.
`

// usage is -help-all.
const usage = commands + `
keys and trust:
  -dir FOLDER            keys and trust (default: $SECURECHAT_DIR, else securechat in your configuration folder)
  -identity FILE         prove who we are with this SSH key; a .pub file means its key in ssh-agent
  -passphrase-file FILE  the identity's passphrase (else it is asked for, or $CREDENTIALS_DIRECTORY/passphrase)
  -type TYPE             of an identity to be made: ed25519 (default), rsa or ecdsa
  -bits N                of RSA keys to be made (default 2048; 3072 for an identity)
  -comment NAME          of an identity to be made: the name its owner goes by (default user-host)
  -accept-new            trust a server never met without asking; a changed key is refused all the same

the client:
  -to NAME               everything is for NAME alone
  -stay                  go on receiving after the end of the input
  -count N               end after N messages were received (implies -stay)
  -timeout D             end after D, such as 10s, with exit status 5 (implies -stay)
  -reconnect             connect again after trouble, and send what was not acknowledged (default at a terminal)

the server:
  -listen systemd        take the sockets of a systemd .socket unit
  -log FILE              its log (default connection.log); off keeps none; SIGHUP reopens it
  -log-text=false        it keeps the SHA-256 of what was said in place of the text
  -sync                  acknowledge a line when it is on disk, not when it is written
  -max-clients N         in the room at once (default 1024)
  -norelay               take lines in and pass none on, as the paper's server does
  -history N             keep the last N things said for people who were away (default 1000; 0 keeps none)
  -delay D               wait before each answer of a handshake, such as 1s (default 0s; 1s with -paper, both sides)

the paper's own protocol, for its programs:
  -paper                 speak it, with -identity FILE, an RSA-2048 key of its own, and -peer
  -peer FILE             the other side's public key; a server takes several

both:
  -json                  an object a line, in and out: see docs/JSON.md
  -raw                   bytes, both ways between one client and the server: either side's stdin is the other's stdout
  -quiet                 nothing on stderr but errors
  -nobell                no bell on a message to you alone
  -trace                 show the stages of each handshake as they happen
  -version               print the version
  -completion SHELL      print what completes these flags: SHELL is bash, zsh or fish
  -help, -help-all       print the first part of this, or all

exit status: 0 all delivered, 1 network or file trouble, 2 wrong usage, 3 not trusted,
             4 connection lost and lines perhaps with it, 5 -timeout ran out
`

type options struct {
	listen, connect, allow, invite string
	keygen, fingerprint, version   bool
	helpAll                        bool
	completion                     string

	dir, identity, passphraseFile string
	typ, comment                  string
	bits                          int
	join, acceptNew               bool

	to                  string
	stay, reconnect     bool
	reconnectSet        bool
	json, quiet, nobell bool
	raw                 bool
	count               int
	timeout             time.Duration

	log            string
	history        int
	logText, sync  bool
	verifyLog      string
	verifyMore     []string
	maxClients     int
	norelay, trace bool
	paper          bool
	peers          []string
	delay          time.Duration
}

// errUsage is a wrong command line.
type errUsage struct{ error }

// flags is the table of all flags: what is read is put into o.
func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("securechat", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	for name, p := range map[string]*string{
		"listen": &o.listen, "connect": &o.connect, "allow": &o.allow, "invite": &o.invite,
		"dir": &o.dir, "identity": &o.identity, "passphrase-file": &o.passphraseFile, "type": &o.typ, "comment": &o.comment, "log": &o.log, "verify-log": &o.verifyLog, "to": &o.to,
		"completion": &o.completion,
	} {
		f.StringVar(p, name, *p, "")
	}
	for name, p := range map[string]*bool{
		"keygen": &o.keygen, "fingerprint": &o.fingerprint, "version": &o.version, "help-all": &o.helpAll,
		"join": &o.join, "accept-new": &o.acceptNew, "norelay": &o.norelay, "paper": &o.paper, "trace": &o.trace,
		"stay": &o.stay, "reconnect": &o.reconnect, "log-text": &o.logText, "sync": &o.sync, "json": &o.json, "raw": &o.raw,
		"quiet": &o.quiet, "nobell": &o.nobell,
	} {
		f.BoolVar(p, name, *p, "")
	}
	f.IntVar(&o.bits, "bits", 0, "")
	f.IntVar(&o.count, "count", 0, "")
	f.IntVar(&o.history, "history", o.history, "")
	f.IntVar(&o.maxClients, "max-clients", o.maxClients, "")
	f.DurationVar(&o.timeout, "timeout", 0, "")
	f.DurationVar(&o.delay, "delay", 0, "")
	f.Func("peer", "", func(path string) error { o.peers = append(o.peers, path); return nil })
	return f
}

// parseFlags reads the command line. Its errors are errUsage, or flag.ErrHelp after -help or -help-all has been answered.
func parseFlags(args []string, stdout io.Writer) (*options, error) {
	o := &options{typ: "ed25519", log: "connection.log", logText: true, maxClients: maxClients, history: 1000}
	f := o.flags()
	wrong := func(format string, a ...any) (*options, error) {
		return nil, errUsage{fmt.Errorf(format, a...)}
	}
	err := f.Parse(args)
	if o.join && f.NArg() > 0 || slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(strings.TrimLeft(a, "-"), "join=") }) {
		return wrong("-join takes no code, for others may read the command line: it is asked for, or taken from $SECURECHAT_INVITE")
	}
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			_, werr := io.WriteString(stdout, shortUsage)
			return nil, errors.Join(err, werr)
		}
		return wrong("%v; -help-all lists the flags", err)
	}
	if o.helpAll {
		_, werr := io.WriteString(stdout, usage)
		return nil, errors.Join(flag.ErrHelp, werr)
	}
	o.verifyMore = f.Args()
	if f.NArg() > 0 && o.verifyLog == "" {
		return wrong("unexpected argument %q: -listen ADDR opens a room, -connect ADDR joins one", f.Arg(0))
	}
	set := map[string]bool{}
	f.Visit(func(f *flag.Flag) { set[f.Name] = true })
	var modes []string
	for _, mode := range []string{"listen", "connect", "keygen", "fingerprint", "allow", "invite", "verify-log", "version", "completion"} {
		if set[mode] && !(mode == "invite" && set["listen"]) {
			modes = append(modes, "-"+mode)
		}
	}
	if len(modes) == 0 {
		return wrong("say what to do: -listen :9000 opens a room, -connect host:9000 joins one; -help tells more")
	}
	if len(modes) > 1 {
		return wrong("%s exclude each other: start one process for each", strings.Join(modes, " and "))
	}
	for mode, names := range map[string][]string{
		"listen":  {"log", "log-text", "sync", "max-clients", "norelay", "history", "delay"},
		"connect": {"join", "accept-new", "to", "stay", "count", "timeout", "reconnect"},
	} {
		for _, name := range names {
			if set[name] && !set[mode] && !(name == "delay" && set["connect"] && o.paper) {
				return wrong("-%s belongs to -%s", name, mode)
			}
		}
	}
	if err := (&keyOptions{typ: o.typ, bits: o.bits, comment: o.comment}).check(); err != nil {
		return wrong("%v", err)
	}
	for name, value := range map[string]string{"listen": o.listen, "connect": o.connect, "allow": o.allow} {
		if set[name] && value == "" {
			return wrong("-%s needs a value: it got an empty one", name)
		}
	}
	if set["invite"] && !validName(o.invite) {
		return wrong("-invite: %v", nameError(o.invite))
	}
	if !set["listen"] && !set["connect"] {
		return o, nil
	}
	if o.raw {
		for _, name := range []string{"json", "to", "stay", "count", "reconnect", "norelay", "history", "nobell"} {
			if set[name] {
				return wrong("-%s and -raw exclude each other: -raw carries bytes, not messages", name)
			}
		}
	}
	if o.history < 0 {
		return wrong("-history takes a number, and 0 for none")
	}
	if set["count"] && o.count < 1 || set["timeout"] && o.timeout <= 0 {
		return wrong("-count and -timeout take what is more than nothing")
	}
	o.stay = o.stay || o.count > 0 || o.timeout > 0
	o.reconnectSet = set["reconnect"]
	if len(o.to) > maxShown {
		return wrong("-to: the name is too long")
	}
	addr, name := o.connect, "-connect"
	if o.listen != "" {
		addr, name = o.listen, "-listen"
	}
	if o.maxClients < 1 || o.maxClients > 1<<20 {
		return wrong("-max-clients %d: at least 1, at most %d", o.maxClients, 1<<20)
	}
	if o.listen == fromSystemd {
		addr = "systemd:0"
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" {
		return wrong("%s %s: an address has a host and a port, such as localhost:9000 or [::1]:9000", name, addr)
	}
	if o.connect != "" && host == "" {
		o.connect = net.JoinHostPort("localhost", port)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return wrong("%s %s: %q is no port: a number from 1 to 65535", name, addr, port)
	}
	if err := o.checkPaper(set); err != nil {
		return nil, errUsage{err}
	}
	if o.delay < 0 || o.delay > 5*time.Second {
		return wrong("-delay %v: from 0s to 5s, so that four of them fit the handshake's %v", o.delay, handshakeTimeout)
	}
	return o, nil
}

// checkPaper checks what goes with -paper and what does not.
func (o *options) checkPaper(set map[string]bool) error {
	if !o.paper {
		if len(o.peers) > 0 {
			return errors.New("-peer belongs to -paper; without it, authorized_keys and known_hosts say who is who")
		}
		return nil
	}
	for _, name := range []string{"join", "invite", "accept-new", "to", "raw", "reconnect", "passphrase-file", "type", "bits", "comment"} {
		if set[name] {
			return fmt.Errorf("-%s is not for -paper, which has nothing like it", name)
		}
	}
	if o.identity == "" || len(o.peers) == 0 {
		return errors.New("-paper needs -identity FILE, our private RSA-2048 key, and -peer FILE, the other side's public key")
	}
	if o.connect != "" && len(o.peers) != 1 {
		return errors.New("-paper -connect takes one -peer FILE: the server's public key")
	}
	if len(o.peers) > maxPaperClients {
		return fmt.Errorf("-peer: %d clients at most", maxPaperClients)
	}
	if !set["delay"] {
		o.delay = time.Second
	}
	return nil
}
