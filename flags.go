package main

// The command line. One table holds every flag: its value, its default, the modes it belongs to, the flags it
// excludes, the check of its value and its help. -help, -help-all and the completion of shells are made from the
// table, and a test compares the man page with it.

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// commands begins -help and -help-all.
const commands = `usage:
  securechat -listen :9000                   open a room on port 9000
  securechat -connect host:9000              join it; an empty line leaves
  some-job | securechat -connect host:9000   send lines, end when all are logged
  securechat -invite anna                    make a one-time code to admit anna
  securechat -connect host:9000 -join        join; ask for an invite's code
  securechat -allow FILE                     admit the owner of a public key
  securechat -keygen                         make keys; print the public key
  securechat -fingerprint                    print the key's fingerprint
  securechat -verify-log FILE...             check a log's hash chain
`

const shortUsageEnd = `
-help-all lists all flags, securechat(1) explains them.
`

const usageEnd = `
exit status: 0 all delivered, 1 network or file trouble, 2 wrong usage,
             3 not trusted, 4 lines perhaps lost, recorded twice or not sent,
             5 -timeout ran out
`

// options is what the command line asks for.
type options struct {
	mode string // the flag that says what to do, without its dash

	listen, connect, allow, invite string
	completion                     string
	verifyLog                      []string // files of one log, the oldest first
	head                           string   // the hash of a record that these files must have; "" for none

	keys   keyFlags
	client clientFlags
	server serverFlags
	paper  paperFlags
	output outputFlags

	given map[string]bool // the flags on the command line
}

// keyFlags are about the state folder and the keys in it.
type keyFlags struct {
	dir, identity, passphraseFile string
	typ, comment                  string
	bits                          int
	force                         bool
}

type clientFlags struct {
	join, acceptNew bool
	to              string
	stay, reconnect bool
	count, last     int
	timeout         time.Duration
	resume          string
	since           int
}

type serverFlags struct {
	log           string
	logText, sync bool
	maxClients    int
	rate          int
	norelay       bool
	bridge        bool
	history       int
	delay         time.Duration // before each answer of a handshake; with -paper on both sides
}

type paperFlags struct {
	on    bool // -paper
	peers []string
}

// outputFlags are about stdin, stdout and stderr, of clients and servers.
type outputFlags struct {
	json, raw, quiet, quietJoins, nobell, trace bool
}

// option is a row of the table.
type option struct {
	name     string       // without its dash
	value    string       // a word for the kind of its value, such as FILE; "" for a switch
	initial  string       // the default; "" for the zero value
	help     string       // in -help-all and in completion; the default is added
	field    any          // *string, *bool, *int, *time.Duration or *[]string, which receives the value
	common   bool         // the flag is in -help, too
	mode     bool         // the flag says what to do; only one such flag may be given
	needs    []string     // flags of which one has to be given as well; nil for none
	excludes []string     // flags that cannot be given as well
	check    func() error // checks the value if the flag was given
}

// optionGroup is a part of the table under a title of -help-all.
type optionGroup struct {
	title   string
	options []option
}

// table returns all flags, with fields in o. Errors are reported in its order.
func (o *options) table() []optionGroup {
	server, client, both := []string{"listen"}, []string{"connect"}, []string{"listen", "connect"}
	notPaper, notRaw, neither := []string{"paper"}, []string{"raw"}, []string{"paper", "raw"}
	return []optionGroup{
		{"what to do, one of", []option{
			{name: "listen", value: "ADDRESS", field: &o.listen, mode: true, check: o.checkListen,
				help: "open a room on ADDRESS, such as :9000 or 9000; systemd takes the sockets of a systemd .socket unit"},
			{name: "connect", value: "ADDRESS", field: &o.connect, mode: true, check: o.checkConnect,
				help: "join the room at ADDRESS, such as host:9000 or host; an ADDRESS without a flag means this one"},
			{name: "invite", value: "NAME", field: &o.invite, mode: true, excludes: notPaper, check: o.checkInvite,
				help: "make a one-time code that admits NAME; also with -listen"},
			{name: "allow", value: "FILE", field: &o.allow, mode: true, check: o.checkAllow,
				help: "admit the owner of the public key in FILE; - reads stdin"},
			{name: "keygen", field: new(bool), mode: true,
				help: "make the keys that do not exist; print the public key and its fingerprint"},
			{name: "fingerprint", field: new(bool), mode: true, help: "print the key's fingerprint and name"},
			{name: "verify-log", value: "FILE", field: &o.verifyLog, mode: true, check: o.checkVerifyLog,
				help: "check a log's hash chain; name rotated files first, oldest first; they may be compressed (.gz)"},
			{name: "completion", value: "SHELL", field: &o.completion, mode: true, check: o.checkCompletion,
				help: "print a script that completes these flags in bash, zsh or fish"},
			{name: "version", field: new(bool), mode: true, help: "print the version"},
			{name: "help", field: new(bool), mode: true, help: "print the most common flags"},
			{name: "help-all", field: new(bool), mode: true, help: "print all flags"},
		}},
		{"keys and trust", []option{
			{name: "dir", value: "FOLDER", field: &o.keys.dir, common: true,
				help: "folder of keys and trust (default $SECURECHAT_DIR, else " +
					"securechat in your configuration folder)"},
			{name: "identity", value: "FILE", field: &o.keys.identity,
				help: "use this SSH key as identity; a .pub file means its key in ssh-agent"},
			{name: "passphrase-file", value: "FILE", field: &o.keys.passphraseFile, excludes: notPaper,
				help: "passphrase of the identity (default $CREDENTIALS_DIRECTORY/passphrase, else a prompt)"},
			{name: "type", value: "TYPE", initial: "ed25519", field: &o.keys.typ, excludes: notPaper,
				check: o.checkType, help: "type of a new identity: ed25519, rsa or ecdsa"},
			{name: "bits", value: "N", field: &o.keys.bits, excludes: notPaper, check: o.checkBits,
				help: "size of new RSA keys (default 2048; 3072 for an identity)"},
			{name: "comment", value: "NAME", field: &o.keys.comment, excludes: notPaper, check: o.checkComment,
				help: "name of the owner of a new identity (default user-host)"},
			{name: "force", field: &o.keys.force, needs: []string{"allow"},
				help: "add the key of -allow although its name belongs to another key"},
		}},
		{"clients", []option{
			{name: "join", field: &o.client.join, needs: client, excludes: notPaper,
				help: "join with an invite's code, typed at a prompt or taken from $SECURECHAT_INVITE"},
			{name: "accept-new", field: &o.client.acceptNew, needs: client, excludes: notPaper,
				help: "trust an unknown server without asking; a changed key is still refused"},
			{name: "to", value: "NAME", field: &o.client.to, common: true, needs: client, excludes: neither,
				check: o.checkTo, help: "send everything to NAME alone"},
			{name: "stay", field: &o.client.stay, common: true, needs: client, excludes: notRaw,
				help: "keep receiving after the end of the input"},
			{name: "count", value: "N", field: &o.client.count, needs: client, excludes: notRaw, check: o.checkCount,
				help: "end after N messages were received (implies -stay)"},
			{name: "timeout", value: "D", field: &o.client.timeout, needs: client, check: o.checkTimeout,
				help: "end after D, such as 10s or 10, with exit status 5 (implies -stay)"},
			{name: "resume", value: "FILE", field: &o.client.resume, needs: client, excludes: neither,
				check: o.checkResume, help: "keep the place in the room in FILE, and go on there"},
			{name: "since", value: "SEQ", field: &o.client.since, needs: client, excludes: neither,
				check: o.checkSince, help: "begin with the message after number SEQ"},
			{name: "last", value: "N", field: &o.client.last, needs: client, excludes: neither, check: o.checkLast,
				help: "begin with the last N messages"},
			{name: "reconnect", field: &o.client.reconnect, common: true, needs: client, excludes: neither,
				help: "connect again after network trouble, and send again what was not acknowledged " +
					"(default at a terminal)"},
		}},
		{"servers", []option{
			{name: "log", value: "FILE", initial: "connection.log", field: &o.server.log, common: true, needs: server,
				check: o.checkLog, help: "log of the server; - writes it to stdout, off keeps none; SIGHUP reopens it"},
			{name: "log-text", initial: "true", field: &o.server.logText, needs: server,
				help: "log the SHA-256 of each text in place of the text"},
			{name: "sync", field: &o.server.sync, needs: server,
				help: "acknowledge a line when it is on disk, not when it is written"},
			{name: "max-clients", value: "N", initial: strconv.Itoa(maxClients), field: &o.server.maxClients,
				needs: server, check: o.checkMaxClients, help: "clients in the room at once"},
			{name: "rate", value: "N", field: &o.server.rate, needs: server, excludes: notRaw, check: o.checkRate,
				help: "read from each key at most N lines a second, in bursts of ten seconds' worth (default no limit)"},
			{name: "norelay", field: &o.server.norelay, needs: server, excludes: notRaw,
				help: "receive lines and pass none on, as the paper's server does"},
			{name: "bridge", field: &o.server.bridge, needs: server, excludes: notRaw,
				help: "like -json, and stdin has messages of other servers: none speaks as the operator"},
			{name: "history", value: "N", initial: "1000", field: &o.server.history, needs: server, excludes: notRaw,
				check: o.checkHistory, help: "keep N messages for people who are away; 0 keeps none"},
			{name: "delay", value: "D", field: &o.server.delay, needs: both, check: o.checkDelay,
				help: "wait before each answer of a handshake, such as 1s (default 0s; with -paper 1s, on both sides)"},
			{name: "head", value: "HASH", field: &o.head, needs: []string{"verify-log"}, check: o.checkHead,
				help: "with -verify-log: fail unless the log has the record with this hash, a head that -verify-log has printed"},
		}},
		{"the paper's own protocol, for its programs", []option{
			{name: "paper", field: &o.paper.on, needs: both, excludes: notRaw, check: o.checkPaper,
				help: "speak it; needs -identity FILE, an RSA-2048 key for this alone, and -peer"},
			{name: "peer", value: "FILE", field: &o.paper.peers, needs: []string{"paper"}, check: o.checkPeers,
				help: "public key of the other side; for a server once or more"},
		}},
		{"clients and servers", []option{
			{name: "json", field: &o.output.json, common: true, excludes: notRaw,
				help: "one JSON object a line, in and out"},
			{name: "raw", field: &o.output.raw,
				help: "carry bytes between one client and the server: " +
					"the stdin of each side is the stdout of the other"},
			{name: "quiet", field: &o.output.quiet, common: true, help: "print nothing but errors on stderr"},
			{name: "quiet-joins", field: &o.output.quietJoins, excludes: notRaw,
				help: "print no joins and leaves on stderr, except the join of a name that looks like another one"},
			{name: "nobell", field: &o.output.nobell, excludes: notRaw,
				help: "ring no bell for your name or for a message to you alone"},
			{name: "trace", field: &o.output.trace, help: "print the stages of each handshake"},
		}},
	}
}

// rows returns the rows of the table.
func rows(table []optionGroup) (all []option) {
	for _, g := range table {
		all = append(all, g.options...)
	}
	return all
}

// onByDefault reports whether the flag is a switch that is turned off by =false.
func (row option) onByDefault() bool { return row.value == "" && row.initial == "true" }

// shown returns the flag's name as help and completion show it.
func (row option) shown() string {
	if row.onByDefault() {
		return row.name + "=false"
	}
	return row.name
}

// text returns the flag's help with its default.
func (row option) text() string {
	if row.initial == "" || row.onByDefault() {
		return row.help
	}
	return row.help + " (default " + row.initial + ")"
}

// has reports whether the flag was given. A mode that was given as =false was not.
func (o *options) has(row option) bool {
	on, isSwitch := row.field.(*bool)
	return o.given[row.name] && !(row.mode && isSwitch && !*on)
}

// errUsage is a wrong command line.
type errUsage struct{ error }

func wrongUse(format string, a ...any) error { return errUsage{fmt.Errorf(format, a...)} }

// flagSet makes a flag set of the table's rows and sets the defaults.
func flagSet(table []option) *flag.FlagSet {
	f := flag.NewFlagSet("securechat", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	for _, row := range table {
		switch p := row.field.(type) {
		case *string:
			f.StringVar(p, row.name, "", "")
		case *bool:
			f.BoolVar(p, row.name, false, "")
		case *int:
			f.Func(row.name, "", func(value string) error {
				n, err := strconv.Atoi(value)
				if err != nil {
					return errors.New("give a whole number, such as 5")
				}
				*p = n
				return nil
			})
		case *time.Duration:
			f.Func(row.name, "", func(value string) error {
				d, err := time.ParseDuration(value)
				if n, nerr := strconv.ParseUint(value, 10, 31); nerr == nil { // a number alone means seconds
					d, err = time.Duration(n)*time.Second, nil
				}
				if err != nil {
					return errors.New("give a time, such as 10s or 2m")
				}
				*p = d
				return nil
			})
		case *[]string:
			f.Func(row.name, "", func(value string) error { *p = append(*p, value); return nil })
		}
		if row.initial == "" {
			continue
		}
		if err := f.Lookup(row.name).Value.Set(row.initial); err != nil {
			panic(fmt.Sprintf("the default of -%s: %v", row.name, err)) // the table is wrong: TestOptionTable notices
		}
	}
	return f
}

// parseFlags reads the command line. All of its errors are errUsage. If several flags are wrong, it reports the first
// of them in the order of the table.
func parseFlags(args []string) (*options, error) {
	o := &options{given: map[string]bool{}}
	table := rows(o.table())
	f := flagSet(table)
	err := f.Parse(headFirst(args))
	given := func(f *flag.Flag) { o.given[f.Name] = true }
	f.Visit(given)
	isMode := func(row option) bool { return row.mode && o.has(row) }
	if words := f.Args(); err == nil && len(words) > 0 && !o.client.join && !slices.ContainsFunc(table, isMode) {
		_ = f.Set("connect", words[0]) // HOST[:PORT] alone means -connect; a string takes any value
		err = f.Parse(words[1:])
		f.Visit(given)
	}
	if errors.Is(err, flag.ErrHelp) { // -h, which is not in the table
		o.mode = "help"
		return o, nil
	}
	joinsWithCode := func(a string) bool { return strings.HasPrefix(strings.TrimLeft(a, "-"), "join=") }
	if o.client.join && f.NArg() > 0 || slices.ContainsFunc(args, joinsWithCode) {
		return nil, wrongUse("-join takes no code, since other users can read the command line: it is asked for, " +
			"or taken from $SECURECHAT_INVITE")
	}
	if err != nil {
		return nil, wrongUse("%v; -help-all lists the flags", err)
	}
	o.mode, err = o.chooseMode(table)
	if err != nil {
		return nil, err
	}
	if o.mode == "help" || o.mode == "help-all" {
		return o, nil
	}
	if o.mode == "verify-log" {
		o.verifyLog = append(o.verifyLog, f.Args()...)
	} else if f.NArg() > 0 {
		return nil, wrongUse("unexpected argument %q: -help shows what can be given", f.Arg(0))
	}
	for _, row := range table {
		if err := o.checkRow(row); err != nil {
			return nil, err
		}
	}
	o.output.json = o.output.json || o.server.bridge
	o.client.stay = o.client.stay || o.client.count > 0 || o.client.timeout > 0
	if o.paper.on && !o.given["delay"] {
		o.server.delay = time.Second
	}
	return o, nil
}

// headFirst returns args with -head HASH before all others: behind -verify-log or its files it would be the names of
// files.
func headFirst(args []string) []string {
	at := slices.IndexFunc(args, func(a string) bool { return a == "-head" || a == "--head" })
	if at < 0 || at+1 == len(args) {
		return args
	}
	return slices.Concat(args[at:at+2], args[:at], args[at+2:])
}

// chooseMode returns the one flag that says what to do. -help and -help-all count more than any other, and -listen more
// than -invite.
func (o *options) chooseMode(table []option) (string, error) {
	var modes []string
	for _, row := range table {
		if row.mode && o.has(row) && !(row.name == "invite" && o.given["listen"]) {
			modes = append(modes, row.name)
		}
	}
	for _, help := range []string{"help", "help-all"} {
		if slices.Contains(modes, help) {
			return help, nil
		}
	}
	switch len(modes) {
	case 0:
		return "", wrongUse("nothing to do: -listen :9000 opens a room, -connect host:9000 joins one; -help lists more")
	case 1:
		return modes[0], nil
	}
	return "", wrongUse("-%s exclude each other: start one process for each", strings.Join(modes, " and -"))
}

// checkRow checks one flag, if it was given.
func (o *options) checkRow(row option) error {
	if !o.has(row) {
		return nil
	}
	if row.needs != nil && !slices.ContainsFunc(row.needs, func(mode string) bool { return o.given[mode] }) {
		return wrongUse("-%s belongs to -%s", row.name, strings.Join(row.needs, " or -"))
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

// notEmpty returns an error if a flag's value is empty.
func notEmpty(name, value string) error {
	if value == "" {
		return fmt.Errorf("-%s needs a value, and got an empty one", name)
	}
	return nil
}

func (o *options) checkListen() (err error) {
	if o.listen != fromSystemd {
		o.listen, err = wholeAddress("listen", o.listen)
	}
	return err
}

func (o *options) checkConnect() (err error) {
	o.connect, err = wholeAddress("connect", o.connect)
	if host, port, err := net.SplitHostPort(o.connect); err == nil && host == "" {
		o.connect = net.JoinHostPort("localhost", port)
	}
	return err
}

// defaultPort is the port of an address that names none.
const defaultPort = "9000"

// wholeAddress returns a flag's value as host:port. A value without a port gets defaultPort, and a number alone is a
// port of this machine.
func wholeAddress(name, addr string) (string, error) {
	if err := notEmpty(name, addr); err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host, port, err = addr, defaultPort, nil
		if _, nerr := strconv.ParseUint(addr, 10, 64); nerr == nil {
			host, port = "", addr
		} else if strings.ContainsAny(addr, ":[]") {
			host = strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]")
			_, err = netip.ParseAddr(host)
		}
	}
	if err != nil || port == "" {
		return "", fmt.Errorf("-%s %s: give a host and a port, such as localhost:9000 or [::1]:9000", name, addr)
	}
	if err := checkPort(port); err != nil {
		return "", fmt.Errorf("-%s %s: %w", name, addr, err)
	}
	return net.JoinHostPort(host, port), nil
}

func checkPort(port string) error {
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("%q is not a port: give a number from 1 to 65535", port)
	}
	return nil
}

func (o *options) checkAllow() error { return notEmpty("allow", o.allow) }

func (o *options) checkInvite() error {
	if !validName(o.invite) {
		return fmt.Errorf("-invite: %w", nameError(o.invite))
	}
	return nil
}

func (o *options) checkVerifyLog() error {
	for _, path := range o.verifyLog {
		if err := notEmpty("verify-log", path); err != nil {
			return err
		}
	}
	return nil
}

func (o *options) checkHead() error {
	if b, err := hex.DecodeString(o.head); err != nil || len(b) != sha256.Size {
		return fmt.Errorf("-head %s: give the %d hexadecimal digits that -verify-log prints", o.head, 2*sha256.Size)
	}
	o.head = strings.ToLower(o.head)
	return nil
}

// shells are what -completion prints a script for.
const shells = "bash zsh fish"

func (o *options) checkCompletion() error {
	if !slices.Contains(strings.Fields(shells), o.completion) {
		return fmt.Errorf("-completion %s: give bash, zsh or fish", o.completion)
	}
	return nil
}

func (o *options) checkType() error { return checkKeyOptions("type", keyOptions{typ: o.keys.typ}) }

func (o *options) checkBits() error { return checkKeyOptions("bits", keyOptions{bits: o.keys.bits}) }

func (o *options) checkComment() error {
	return checkKeyOptions("comment", keyOptions{comment: o.keys.comment})
}

func checkKeyOptions(name string, k keyOptions) error {
	if err := k.check(); err != nil {
		return fmt.Errorf("-%s: %w", name, err)
	}
	return nil
}

func (o *options) checkTo() error {
	if o.client.to != "" && !validShown(o.client.to) {
		return fmt.Errorf("-to: %w", nameError(o.client.to))
	}
	return nil
}

func (o *options) checkCount() error {
	if o.client.count < 1 {
		return fmt.Errorf("-count %d: it must be positive", o.client.count)
	}
	return nil
}

func (o *options) checkResume() error {
	if o.given["since"] {
		return errors.New("-resume and -since exclude each other: each says where to begin")
	}
	return notEmpty("resume", o.client.resume)
}

func (o *options) checkSince() error {
	if o.client.since < 0 {
		return fmt.Errorf("-since %d: it must be the number of a message, or 0", o.client.since)
	}
	return nil
}

func (o *options) checkLast() error {
	switch {
	case o.given["since"]:
		return errors.New("-last and -since exclude each other: each says where to begin")
	case o.client.last < 1:
		return fmt.Errorf("-last %d: it must be positive", o.client.last)
	}
	return nil
}

func (o *options) checkTimeout() error {
	if o.client.timeout <= 0 {
		return fmt.Errorf("-timeout %v: it must be positive", o.client.timeout)
	}
	return nil
}

func (o *options) checkLog() error {
	switch {
	case o.server.log != logStdout:
		return nil
	case o.server.sync:
		return errors.New("-log -: -sync needs a file")
	case o.output.raw:
		return errors.New("-log -: -raw needs stdout: name a file, or off")
	}
	return nil
}

func (o *options) checkMaxClients() error {
	if n := o.server.maxClients; n < 1 || n > 1<<20 {
		return fmt.Errorf("-max-clients %d: it must be from 1 to %d", n, 1<<20)
	}
	return nil
}

func (o *options) checkRate() error {
	if n := o.server.rate; n < 1 || n > 1<<20 {
		return fmt.Errorf("-rate %d: it must be from 1 to %d", n, 1<<20)
	}
	return nil
}

func (o *options) checkHistory() error {
	if o.server.history < 0 {
		return fmt.Errorf("-history %d: it must be a number of messages, or 0 for none", o.server.history)
	}
	return nil
}

func (o *options) checkDelay() error {
	d := o.server.delay
	switch {
	case o.mode == "connect" && !o.paper.on:
		return errors.New("-delay belongs to -listen, or to -paper on either side")
	case d < 0 || d > 5*time.Second:
		return fmt.Errorf("-delay %v: it must be from 0s to 5s", d)
	}
	return nil
}

func (o *options) checkPaper() error {
	switch {
	case o.keys.identity == "" || len(o.paper.peers) == 0:
		return errors.New("-paper needs -identity FILE, a private RSA-2048 key, " +
			"and -peer FILE, the other side's public key")
	case o.mode == "connect" && len(o.paper.peers) != 1:
		return errors.New("-paper -connect takes one -peer FILE: the server's public key")
	}
	return nil
}

func (o *options) checkPeers() error {
	if n := len(o.paper.peers); n > maxPeers {
		return fmt.Errorf("-peer was given %d times: %d clients at most", n, maxPeers)
	}
	return nil
}

// shortUsage returns -help.
func shortUsage() string {
	var b strings.Builder
	b.WriteString(commands + "\noften used with them:\n")
	for _, row := range rows(new(options).table()) {
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
	for _, word := range strings.Fields(row.text()) {
		if len(line)+1+len(word) > usageWidth {
			b.WriteString(line + "\n")
			line = strings.Repeat(" ", helpColumn-1)
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
}
