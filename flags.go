package main

// The command line. One table holds every flag: its help, the modes it belongs to, what it excludes and how its value
// is checked. -help-all, the checks and the completion of shells are made from it; a test holds the man page to it.

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

// commands begins -help and -help-all.
const commands = `usage:
  securechat -listen :9000                   open a room on port 9000
  securechat -connect host:9000              join it; an empty line leaves
  some-job | securechat -connect host:9000   send lines, and end when all are
                                             in the server's log
  securechat -invite anna                    make a one-time code that lets anna
                                             in (also together with -listen)
  securechat -connect host:9000 -join        use such a code: it is asked for,
                                             or taken from $SECURECHAT_INVITE
  securechat -allow FILE                     admit the owner of a public key;
                                             - reads it from a pipe
  securechat -keygen                         make the keys; print the public
                                             one and its fingerprint
  securechat -fingerprint                    print our fingerprint
  securechat -verify-log FILE...             check a log's hash chain; name
                                             rotated files first, oldest first
`

const shortUsageEnd = `
-help-all lists all flags, securechat(1) explains them.
`

const usageEnd = `
exit status: 0 all delivered, 1 network or file trouble, 2 wrong usage,
             3 not trusted, 4 connection lost and lines perhaps with it,
             5 -timeout ran out
`

// options is what the command line asks for, one field a flag.
type options struct {
	listen, connect, allow, invite string
	keygen, fingerprint, version   bool
	verifyLog, completion          string
	help, helpAll                  bool

	dir, identity, passphraseFile string
	typ, comment                  string
	bits                          int
	join, acceptNew, force        bool

	to              string
	stay, reconnect bool
	count           int
	timeout         time.Duration

	log            string
	logText, sync  bool
	maxClients     int
	norelay        bool
	history        int
	delay          time.Duration
	paper          bool
	peers          []string
	json, raw      bool
	quiet, nobell  bool
	trace          bool
	given          map[string]bool // the flags on the command line
	verifyLogOlder []string        // arguments behind -verify-log FILE: more files of the log
}

// option is a row of the table.
type option struct {
	name, value string // value is a word for its kind, such as FILE; empty for a switch
	help        string
	field       any      // *string, *bool, *int, *time.Duration or *[]string
	common      bool     // also in -help
	mode        bool     // says what to do; only one such flag may be given
	modes       []string // the flags it belongs to, of which one has to be given; nil for none
	excludes    []string
	check       func() error // checks the value, if the flag was given
}

// optionGroup is a part of -help-all.
type optionGroup struct {
	title   string
	options []option
}

// table returns all flags, which are read into o. Errors come in its order.
func (o *options) table() []optionGroup {
	server, client, both := []string{"listen"}, []string{"connect"}, []string{"listen", "connect"}
	notPaper := []string{"paper"}
	return []optionGroup{
		{"", []option{
			{name: "listen", value: "ADDRESS", field: &o.listen, mode: true, check: o.checkListen,
				help: "open a room on ADDRESS, such as :9000, or on the sockets of systemd"},
			{name: "connect", value: "ADDRESS", field: &o.connect, mode: true, check: o.checkConnect,
				help: "join the room at ADDRESS, such as host:9000"},
			{name: "keygen", field: &o.keygen, mode: true,
				help: "make the keys; print the public one and its fingerprint"},
			{name: "fingerprint", field: &o.fingerprint, mode: true, help: "print our fingerprint"},
			{name: "allow", value: "FILE", field: &o.allow, mode: true, check: notEmpty("allow", &o.allow),
				help: "admit the owner of a public key; - reads it from a pipe"},
			{name: "invite", value: "NAME", field: &o.invite, mode: true, excludes: notPaper, check: o.checkInvite,
				help: "make a one-time code that lets NAME in"},
			{name: "verify-log", value: "FILE", field: &o.verifyLog, mode: true, check: notEmpty("verify-log", &o.verifyLog),
				help: "check a log's hash chain"},
		}},
		{"keys and trust", []option{
			{name: "dir", value: "FOLDER", field: &o.dir, common: true,
				help: "keys and trust (default $SECURECHAT_DIR, else securechat in your configuration folder)"},
			{name: "identity", value: "FILE", field: &o.identity,
				help: "prove who we are with this SSH key; a .pub file means its key in ssh-agent"},
			{name: "passphrase-file", value: "FILE", field: &o.passphraseFile, excludes: notPaper,
				help: "the identity's passphrase (else it is asked for, or $CREDENTIALS_DIRECTORY/passphrase)"},
			{name: "type", value: "TYPE", field: &o.typ, excludes: notPaper, check: o.checkKeys,
				help: "of a new identity: ed25519 (default), rsa or ecdsa"},
			{name: "bits", value: "N", field: &o.bits, excludes: notPaper, check: o.checkKeys,
				help: "of new RSA keys (default 2048; 3072 for an identity)"},
			{name: "comment", value: "NAME", field: &o.comment, excludes: notPaper, check: o.checkKeys,
				help: "of a new identity: the name its owner goes by (default user-host)"},
			{name: "force", field: &o.force, modes: []string{"allow"},
				help: "with -allow: add a key although its name belongs to another one"},
		}},
		{"the client", []option{
			{name: "join", field: &o.join, modes: client, excludes: notPaper,
				help: "use an invite's code, which is asked for or taken from $SECURECHAT_INVITE"},
			{name: "accept-new", field: &o.acceptNew, modes: client, excludes: notPaper,
				help: "trust an unknown server without asking; a changed key is refused all the same"},
			{name: "to", value: "NAME", field: &o.to, common: true, modes: client, excludes: []string{"paper", "raw"},
				check: o.checkTo,
				help:  "send everything to NAME alone"},
			{name: "stay", field: &o.stay, common: true, modes: client, excludes: []string{"raw"},
				help: "keep receiving after the end of the input"},
			{name: "count", value: "N", field: &o.count, modes: client, excludes: []string{"raw"}, check: o.checkCount,
				help: "end after N messages were received (implies -stay)"},
			{name: "timeout", value: "D", field: &o.timeout, modes: client, check: o.checkTimeout,
				help: "end after D, such as 10s, with exit status 5 (implies -stay)"},
			{name: "reconnect", field: &o.reconnect, common: true, modes: client, excludes: []string{"paper", "raw"},
				help: "connect again after trouble, and send what was not acknowledged (default at a terminal)"},
		}},
		{"the server", []option{
			{name: "log", value: "FILE", field: &o.log, common: true, modes: server,
				help: "the server's log (default connection.log); off keeps none; SIGHUP reopens it"},
			{name: "log-text", field: &o.logText, modes: server,
				help: "log the SHA-256 of what was said in place of the text"},
			{name: "sync", field: &o.sync, modes: server,
				help: "acknowledge a line when it is on disk, not when it is written"},
			{name: "max-clients", value: "N", field: &o.maxClients, modes: server, check: o.checkMaxClients,
				help: "clients in the room at once (default 1024)"},
			{name: "norelay", field: &o.norelay, modes: server, excludes: []string{"raw"},
				help: "receive lines and pass none on, as the paper's server does"},
			{name: "history", value: "N", field: &o.history, modes: server, excludes: []string{"raw"}, check: o.checkHistory,
				help: "keep the last N things said for people who were away (default 1000; 0 keeps none)"},
			{name: "delay", value: "D", field: &o.delay, modes: both, check: o.checkDelay,
				help: "wait before each answer of a handshake, such as 1s (default 0s; with -paper 1s, on both sides)"},
		}},
		{"the paper's own protocol, for its programs", []option{
			{name: "paper", field: &o.paper, modes: both, excludes: []string{"raw"}, check: o.checkPaper,
				help: "speak it, with -identity FILE, an RSA-2048 key of its own, and -peer"},
			{name: "peer", value: "FILE", field: &o.peers, modes: []string{"paper"},
				help: "the other side's public key; a server takes several"},
		}},
		{"both sides", []option{
			{name: "json", field: &o.json, common: true, excludes: []string{"raw"},
				help: "one object a line, in and out"},
			{name: "raw", field: &o.raw,
				help: "bytes, both ways between one client and the server: each side's stdin is the other's stdout"},
			{name: "quiet", field: &o.quiet, common: true, help: "nothing on stderr but errors"},
			{name: "nobell", field: &o.nobell, excludes: []string{"raw"}, help: "no bell on a message to you alone"},
			{name: "trace", field: &o.trace, help: "print the stages of each handshake as they happen"},
		}},
		{"other", []option{
			{name: "version", field: &o.version, mode: true, help: "print the version"},
			{name: "completion", value: "SHELL", field: &o.completion, mode: true,
				help: "print what completes these flags in bash, zsh or fish"},
			{name: "help", field: &o.help, help: "print the commands and the most common flags"},
			{name: "help-all", field: &o.helpAll, help: "print all flags"},
		}},
	}
}

// all yields the rows of the table.
func (o *options) all(yield func(option) bool) {
	for _, g := range o.table() {
		for _, row := range g.options {
			if !yield(row) {
				return
			}
		}
	}
}

// shown is the flag's name as help and completion show it: a switch that is on by default is turned off by =false.
func (row option) shown() string {
	if row.name == "log-text" {
		return row.name + "=false"
	}
	return row.name
}

// errUsage is a wrong command line.
type errUsage struct{ error }

func wrongUse(format string, a ...any) error { return errUsage{fmt.Errorf(format, a...)} }

// newOptions returns the defaults.
func newOptions() *options {
	return &options{
		typ: "ed25519", log: "connection.log", logText: true, maxClients: maxClients, history: 1000, given: map[string]bool{},
	}
}

// flags makes a flag set of the table.
func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("securechat", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	for row := range o.all {
		switch p := row.field.(type) {
		case *string:
			f.StringVar(p, row.name, *p, "")
		case *bool:
			f.BoolVar(p, row.name, *p, "")
		case *int:
			f.IntVar(p, row.name, *p, "")
		case *time.Duration:
			f.DurationVar(p, row.name, *p, "")
		case *[]string:
			f.Func(row.name, "", func(value string) error { *p = append(*p, value); return nil })
		}
	}
	f.BoolVar(&o.help, "h", false, "")
	return f
}

// parseFlags reads the command line. Its errors are errUsage, in the order of the table.
func parseFlags(args []string) (*options, error) {
	o := newOptions()
	f := o.flags()
	err := f.Parse(args)
	joinsWithCode := func(a string) bool { return strings.HasPrefix(strings.TrimLeft(a, "-"), "join=") }
	if o.join && f.NArg() > 0 || slices.ContainsFunc(args, joinsWithCode) {
		return nil, wrongUse("-join takes no code, since other users can read the command line: " +
			"it is asked for, or taken from $SECURECHAT_INVITE")
	}
	if err != nil {
		return nil, wrongUse("%v; -help-all lists the flags", err)
	}
	if o.help || o.helpAll {
		return o, nil
	}
	f.Visit(func(f *flag.Flag) { o.given[f.Name] = true })
	if o.verifyLogOlder = f.Args(); f.NArg() > 0 && !o.given["verify-log"] {
		return nil, wrongUse("unexpected argument %q: -listen ADDR opens a room, -connect ADDR joins one", f.Arg(0))
	}
	if err := o.checkModes(); err != nil {
		return nil, err
	}
	for row := range o.all {
		if err := o.checkRow(row); err != nil {
			return nil, err
		}
	}
	o.stay = o.stay || o.count > 0 || o.timeout > 0
	if o.paper && !o.given["delay"] {
		o.delay = time.Second
	}
	return o, nil
}

// checkModes checks that the command line says one thing to do.
func (o *options) checkModes() error {
	var modes []string
	for row := range o.all {
		if row.mode && o.given[row.name] && !(row.name == "invite" && o.given["listen"]) {
			modes = append(modes, "-"+row.name)
		}
	}
	switch {
	case len(modes) == 0:
		return wrongUse("say what to do: -listen :9000 opens a room, -connect host:9000 joins one; -help lists more")
	case len(modes) > 1:
		return wrongUse("%s exclude each other: start one process for each", strings.Join(modes, " and "))
	}
	return nil
}

// checkRow checks one flag, if it was given.
func (o *options) checkRow(row option) error {
	if !o.given[row.name] {
		return nil
	}
	if row.modes != nil && !slices.ContainsFunc(row.modes, func(mode string) bool { return o.given[mode] }) {
		return wrongUse("-%s belongs to -%s", row.name, strings.Join(row.modes, " or -"))
	}
	for _, other := range row.excludes {
		if o.given[other] {
			return wrongUse("-%s and -%s exclude each other: %s", row.name, other, excludedBy[other])
		}
	}
	if row.check == nil {
		return nil
	}
	if err := row.check(); err != nil {
		return errUsage{err}
	}
	return nil
}

// excludedBy says why a flag excludes others.
var excludedBy = map[string]string{
	"paper": "the paper's protocol has nothing like it",
	"raw":   "-raw carries bytes, not messages",
}

// notEmpty checks a value that must not be empty.
func notEmpty(name string, value *string) func() error {
	return func() error {
		if *value == "" {
			return fmt.Errorf("-%s needs a value, and got an empty one", name)
		}
		return nil
	}
}

func (o *options) checkListen() error {
	if o.listen == fromSystemd {
		return nil
	}
	_, _, err := splitAddress("-listen", o.listen)
	return err
}

func (o *options) checkConnect() error {
	host, port, err := splitAddress("-connect", o.connect)
	if err == nil && host == "" {
		o.connect = net.JoinHostPort("localhost", port)
	}
	return err
}

// splitAddress splits a flag's host:port.
func splitAddress(name, addr string) (host, port string, err error) {
	if addr == "" {
		return "", "", fmt.Errorf("%s needs a value, and got an empty one", name)
	}
	host, port, err = net.SplitHostPort(addr)
	if err != nil || port == "" {
		return "", "", fmt.Errorf("%s %s: an address has a host and a port, such as localhost:9000 or [::1]:9000", name, addr)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return "", "", fmt.Errorf("%s %s: %q is no port: a number from 1 to 65535", name, addr, port)
	}
	return host, port, nil
}

func (o *options) checkInvite() error {
	if !validName(o.invite) {
		return fmt.Errorf("-invite: %w", nameError(o.invite))
	}
	return nil
}

func (o *options) checkKeys() error {
	return (&keyOptions{typ: o.typ, bits: o.bits, comment: o.comment}).check()
}

func (o *options) checkTo() error {
	if len(o.to) > maxShown {
		return errors.New("-to: the name is too long")
	}
	return nil
}

func (o *options) checkCount() error {
	if o.count < 1 {
		return fmt.Errorf("-count %d: it must be positive", o.count)
	}
	return nil
}

func (o *options) checkTimeout() error {
	if o.timeout <= 0 {
		return fmt.Errorf("-timeout %v: it must be positive", o.timeout)
	}
	return nil
}

func (o *options) checkMaxClients() error {
	if o.maxClients < 1 || o.maxClients > 1<<20 {
		return fmt.Errorf("-max-clients %d: it must be from 1 to %d", o.maxClients, 1<<20)
	}
	return nil
}

func (o *options) checkHistory() error {
	if o.history < 0 {
		return fmt.Errorf("-history %d: it must be a number of items, or 0 for none", o.history)
	}
	return nil
}

func (o *options) checkDelay() error {
	if o.given["connect"] && !o.paper {
		return errors.New("-delay belongs to -listen, or to -paper on either side")
	}
	if o.delay < 0 || o.delay > 5*time.Second {
		return fmt.Errorf("-delay %v: it must be from 0s to 5s, so that four of them fit the handshake's %v",
			o.delay, handshakeTimeout)
	}
	return nil
}

func (o *options) checkPaper() error {
	switch {
	case o.identity == "" || len(o.peers) == 0:
		return errors.New("-paper needs -identity FILE, our private RSA-2048 key, " +
			"and -peer FILE, the other side's public key")
	case o.connect != "" && len(o.peers) != 1:
		return errors.New("-paper -connect takes one -peer FILE: the server's public key")
	}
	return nil
}

// shortUsage returns -help.
func shortUsage() string {
	var b strings.Builder
	b.WriteString(commands + "\noften with them:\n")
	for row := range new(options).all {
		if row.common {
			writeOption(&b, row)
		}
	}
	return b.String() + shortUsageEnd
}

// fullUsage returns -help-all.
func fullUsage() string {
	var b strings.Builder
	b.WriteString(commands)
	for _, g := range new(options).table() {
		if g.title == "" { // stands in commands
			continue
		}
		b.WriteString("\n" + g.title + ":\n")
		for _, row := range g.options {
			writeOption(&b, row)
		}
	}
	return b.String() + usageEnd
}

const (
	usageWidth = 80 // columns of a small terminal
	helpColumn = 25 // where the help of a flag begins
)

// writeOption writes a flag and its help, wrapped to usageWidth columns.
func writeOption(b *strings.Builder, row option) {
	line := "  -" + row.shown()
	if row.value != "" {
		line += " " + row.value
	}
	line = fmt.Sprintf("%-*s", helpColumn-1, line)
	for _, word := range strings.Fields(row.help) {
		if len(line)+1+len(word) > usageWidth {
			b.WriteString(line + "\n")
			line = strings.Repeat(" ", helpColumn-1)
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
}
