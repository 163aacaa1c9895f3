// Securechat connects people and machines in a room: each line that one of them sends is received by all others, and
// both ends of every connection prove with SSH keys who they are.
//
//	securechat -listen :9000                     open a room
//	securechat -connect host:9000                join it: type lines, an empty line leaves
//	some-job | securechat -connect host:9000     send the lines of a job
//
// # Access control
//
// A server admits the keys in authorized_keys, and a client trusts the servers in known_hosts; on one machine, a server
// and a client with the same key trust each other. Both files are in OpenSSH's formats and in one folder, which -dir
// or $SECURECHAT_DIR names. A one-time code makes each side trust the other's key:
//
//	securechat -invite anna                      make a code for anna
//	securechat -connect host:9000 -join          join; ask for the code
//
// # Pipes
//
// Messages are printed to stdout, one a line; everything else is printed to stderr. A client whose stdin is a pipe
// ends when all of its lines are in the server's log, connection.log. -json reads and writes objects, -raw carries
// bytes.
//
// The exit status is 0 if everything was delivered, 1 for network or file trouble, 2 for wrong usage, 3 if one side
// does not trust the other, 4 if lines are lost or not sent, perhaps, and 5 if -timeout ran out.
//
// # Protocol
//
// Securechat implements a paper, "A Client-Server Secure Communication Approach" (2016): RSA with cipher block
// chaining, a challenge-response handshake in four stages, an AES session and connection.log, all hardened against
// attacks that are known today. docs/PROTOCOL.md specifies every byte; -paper speaks the wire format of the paper's
// own programs.
//
// securechat -help-all lists all flags and docs/securechat.1 explains them.
package main

// The modes, each a function, and the exit codes. No other file ends the process.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// Exit codes.
const (
	exitDone      = 0
	exitTrouble   = 1 // network or file trouble
	exitUsage     = 2 // wrong usage, or a passphrase that is missing or wrong
	exitUntrusted = 3 // either side refused the other, or somebody may be in the middle
	exitLost      = 4 // lines are lost, recorded twice or not sent, perhaps
	exitTimeout   = 5 // -timeout ran out
)

func main() {
	signal.Ignore(syscall.SIGPIPE) // so that a closed stdout shows as EPIPE from Write
	noDumps()
	err := run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	code := make(chan int, 1)
	go func() { code <- exitCode(os.Stderr, err) }() // ends with the process if standard error is stuck
	select {
	case c := <-code:
		os.Exit(c)
	case <-time.After(time.Second): // standard error is stuck
		os.Exit(exitCode(io.Discard, err))
	}
}

// exitCode prints an error in one sentence, with a hint if there is one, and returns the process's exit code.
func exitCode(stderr io.Writer, err error) int {
	if err == nil {
		return exitDone
	}
	hint := hintOf(err)
	if errors.Is(err, errUnverified) {
		hint = "\nsecurechat: hint: the connection was dropped; try from another network, " +
			"and compare fingerprints with the operator"
	}
	lines := "securechat: " + safe(err.Error()) + strings.ReplaceAll(hint, "\n", "\n"+wholeLine)
	fmt.Fprint(stderr, breakRowsFor(stderr, lines))
	switch {
	case errors.As(err, new(errUsage)), errors.As(err, new(errLocked)):
		return exitUsage
	case errors.As(err, new(*untrusted)), errors.Is(err, errUnverified), errors.Is(err, errBadPacket):
		return exitUntrusted
	case errors.As(err, new(*errLost)), errors.As(err, new(*errCut)), errors.As(err, new(errIncomplete)):
		return exitLost
	case errors.Is(err, errTimeout):
		return exitTimeout
	}
	return exitTrouble
}

// run does what the arguments ask for and returns when that is done.
func run(args []string, stdin, stdout, stderr *os.File) error {
	o, err := parseFlags(args)
	if err != nil {
		return err
	}
	switch o.mode {
	case "help":
		_, err := io.WriteString(stdout, shortUsage())
		return err
	case "help-all":
		_, err := io.WriteString(stdout, fullUsage())
		return err
	case "version":
		_, err := fmt.Fprintln(stdout, "securechat", version())
		return err
	case "completion":
		return printCompletion(o.completion, stdout)
	case "verify-log":
		return verifyLogs(o.verifyLog, o.head, stdout)
	}

	p, err := newProcess(o, stdin, stdout, stderr)
	if err != nil {
		return err
	}
	defer p.console.close()
	switch o.mode {
	case "keygen":
		return p.makeKeys()
	case "fingerprint":
		return p.printFingerprint()
	case "allow":
		return p.allowKey()
	case "invite":
		return p.printInvite()
	case "connect":
		return p.connect()
	case "listen":
		return p.listen()
	}
	return wrongUse("-%s is not a mode", o.mode) // not reached: parseFlags returns the modes above
}

// process is what the modes that use keys have in common.
type process struct {
	options       *options
	console       *console
	stdin, stdout *os.File
	dir           string // the state folder
}

// newProcess opens the console, which the caller closes.
func newProcess(o *options, stdin, stdout, stderr *os.File) (*process, error) {
	dir, err := stateFolder(o.keys.dir)
	if err != nil {
		return nil, err
	}
	c, err := openConsole(stdin, stdout, stderr, consoleOptions{
		json: o.output.json, bridge: o.server.bridge, raw: o.output.raw, quiet: o.output.quiet, noBell: o.output.nobell,
		quietJoins: o.output.quietJoins,
	})
	if err != nil {
		return nil, fmt.Errorf("setting up the terminal: %w", err)
	}
	p := &process{options: o, console: c, stdin: stdin, stdout: stdout, dir: dir}
	p.chooseService(serviceFolder([]string{"/var/lib/securechat", "/etc/securechat"}, os.Geteuid())) // systemd, OpenWrt
	return p, nil
}

// chooseService makes root's -invite, -allow and -fingerprint act on the folder of the service, if there is one and no
// other folder was named. If root has keys of its own, they are used as always, and the operator hears of the other
// folder.
func (p *process) chooseService(service string) {
	o := p.options
	switch o.mode {
	case "invite", "allow", "fingerprint":
	default:
		return
	}
	if service == "" || o.keys.dir != "" || os.Getenv("SECURECHAT_DIR") != "" {
		return
	}
	if exists(filepath.Join(p.dir, "identity")) {
		p.console.note("using the keys in %s; for the service's room add -dir %s", p.dir, service)
		return
	}
	p.dir = service
	p.console.note("using the service's folder %s", service)
}

// loadKeys reads the keys and makes those that do not exist. It may ask for a passphrase at the terminal; a mode that
// then prints to stdout itself closes the terminal first.
func (p *process) loadKeys() (*keys, *trust, error) {
	flags := p.options.keys
	o := keyOptions{
		dir: p.dir, typ: flags.typ, bits: flags.bits, comment: flags.comment,
		identity: flags.identity, passphraseFile: flags.passphraseFile,
		notify: p.console.note, inform: p.console.inform,
		prompt: p.console.secretPrompt(),
	}
	if p.options.mode == "keygen" {
		o.checkComment = openTrust(p.dir, nil, "", p.console.note).checkNewName
	}
	k, err := loadKeys(o)
	if err != nil {
		return nil, nil, err
	}
	id := k.signer.PublicKey()
	t := openTrust(p.dir, id, keyName(k.comment, id), p.console.note)
	t.warnClock(time.Now())
	return k, t, nil
}

// makeKeys is -keygen.
func (p *process) makeKeys() error {
	k, _, err := p.loadKeys()
	if err != nil {
		return err
	}
	if !k.made {
		p.console.inform("the keys are there already, so none were made")
	}
	p.console.close() // so that its notes come first
	_, err = fmt.Fprintf(p.stdout, "%s%s\n", publicLine(k.signer.PublicKey(), k.comment), k.fingerprint())
	return err
}

// printFingerprint is -fingerprint.
func (p *process) printFingerprint() error {
	k, t, err := p.loadKeys()
	if err != nil {
		return err
	}
	p.console.close()
	_, err = fmt.Fprintf(p.stdout, "%s %s\n", k.fingerprint(), t.name)
	return err
}

// allowKey is -allow: it adds the public key line in a file, or on stdin, to authorized_keys.
func (p *process) allowKey() error {
	_, t, err := p.loadKeys()
	if err != nil {
		return err
	}
	p.console.closeTerminal()
	line, err := p.readPublicKey()
	if err != nil {
		return fmt.Errorf("reading the public key: %w", err)
	}
	g, err := t.allow(line, "", p.options.keys.force)
	switch {
	case errors.Is(err, errListed):
		p.console.inform("nothing to do: %v", err)
		return nil
	case errors.Is(err, errNameTaken):
		return fmt.Errorf("%w, or use -force", err)
	case err != nil:
		return err
	}
	p.console.inform("%s may join now (%s, %s)", g.name, g.fingerprint, g.by)
	return nil
}

// readPublicKey reads the file that -allow names.
func (p *process) readPublicKey() ([]byte, error) {
	path := p.options.allow
	if path != "-" {
		line, _, err := readFile(path, maxKeyFile)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w; -allow needs the path of a public key, or - to read one from stdin", err)
		}
		return line, err
	}
	if isTerminal(p.stdin) {
		p.console.note("paste the public key line, then press Enter and Ctrl-D")
	}
	return io.ReadAll(io.LimitReader(p.stdin, maxKeyFile+1))
}

// printInvite is -invite without -listen: it makes a code and prints it alone to stdout.
func (p *process) printInvite() error {
	_, t, err := p.loadKeys()
	if err != nil {
		return err
	}
	p.console.closeTerminal()
	code, err := t.newInvite(p.options.invite, time.Now())
	if err != nil {
		return err
	}
	if !p.options.output.quiet {
		p.console.notePlain(inviteWords, p.options.invite, publicAddress(p.lastAddress()))
	}
	p.console.close() // so that the words come before the code
	_, err = fmt.Fprintln(p.stdout, code)
	return err
}

// addressFile is the file of the state folder that holds the address of the room that was opened last.
const addressFile = "address"

// lastAddress returns the address of the room that was opened last, else all addresses with defaultPort. The user of a
// service writes the file and root reads it, to print a command with it, so a zone is not just any text.
func (p *process) lastAddress() string {
	text, _, err := readFile(filepath.Join(p.dir, addressFile), maxAddress)
	addr, perr := netip.ParseAddrPort(strings.TrimSpace(string(text)))
	if zone := addr.Addr().Zone(); err == nil && perr == nil && (zone == "" || validName(zone)) {
		return addr.String()
	}
	return net.JoinHostPort("::", defaultPort)
}

// maxAddress bounds the file of the address, which has at most 40 bytes without a zone.
const maxAddress = 128

// keepAddress writes the address of a room that is being opened to the state folder, for -invite.
func (p *process) keepAddress(addr net.Addr) {
	last := p.lastAddress()
	if _, ok := addr.(*net.TCPAddr); !ok || p.options.output.raw || p.options.paper.on || addr.String() == last {
		return
	}
	err := writeFile(filepath.Join(p.dir, addressFile), []byte(addr.String()+"\n"))
	if err != nil {
		p.console.note("-invite will name the address %s instead of %v: %v", publicAddress(last), addr, err)
	}
}

// endpoint loads the keys of the protocol that the flags choose.
func (p *process) endpoint() (*endpoint, error) {
	o := p.options
	var trace tracer
	if o.output.trace {
		trace = func(line string) { p.console.notePlain("%s", line) }
	}
	// Without paper.go, paperlink.go and the line that calls loadPaper, the program builds, and it refuses -paper.
	switch o.paper.on {
	case true:
		return loadPaper(o.keys.identity, o.paper.peers, p.dir, o.server.delay, trace, p.console.note)
	case false:
		return p.loadSecurechat2(trace)
	}
	return nil, wrongUse("-paper: this program was built without the paper's protocol")
}

// loadSecurechat2 loads the keys of the default protocol.
func (p *process) loadSecurechat2(trace tracer) (*endpoint, error) {
	o := p.options
	k, t, err := p.loadKeys()
	if err != nil {
		return nil, err
	}
	me, err := newParty(k.signer, k.encryption)
	if err != nil {
		return nil, err
	}
	s := &securechat2{
		me: me, trust: t, raw: o.output.raw, note: p.console.inform, trace: trace,
		client: securechat2Client{addr: o.connect, acceptNew: o.client.acceptNew},
		server: securechat2Server{delay: o.server.delay},
	}
	if o.client.join {
		s.client.invite, err = p.readInvite()
		if err != nil {
			return nil, err
		}
	}
	return &endpoint{protocol: s, id: k.signer.PublicKey(), name: t.name, trust: t}, nil
}

// readInvite takes an invite's code from the environment, which it then clears, or asks for it.
func (p *process) readInvite() (*inviteCode, error) {
	if text, given := os.LookupEnv("SECURECHAT_INVITE"); given {
		os.Unsetenv("SECURECHAT_INVITE")
		if text == "" {
			return nil, wrongUse("$SECURECHAT_INVITE is empty: set it to what securechat -invite NAME prints")
		}
		code, err := parseInviteCode(text)
		if err != nil {
			return nil, wrongUse("$SECURECHAT_INVITE: %w", err)
		}
		return &code, nil
	}
	term := p.console.questions()
	if term == nil {
		return nil, wrongUse("-join needs the invite's code: type it at a terminal, or set $SECURECHAT_INVITE")
	}
	for range 3 {
		text, err := term.readSecret("Invite code: ")
		if err != nil {
			return nil, fmt.Errorf("no invite code: %w", err)
		}
		code, err := parseInviteCode(string(text))
		clear(text)
		if err == nil {
			return &code, nil
		}
		term.print("securechat: " + safe(err.Error()))
	}
	return nil, wrongUse("no valid invite code in three attempts")
}

// untilSignal returns a context that ends with the first SIGINT or SIGTERM, which its cause names, or when the returned
// function is called. A signal that comes after anything shows the first one's effect ends the process at once. One
// that comes together with the first counts as the same: a wrapper may pass on what the terminal sends to both.
func untilSignal() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // ends with the first signal, or with ctx
		cause := context.Canceled
		select {
		case s := <-signals:
			cause = fmt.Errorf("%s signal received", s)
		case <-ctx.Done():
		}
		signal.Stop(signals) // from here on, a signal ends the process
		cancel(cause)
	}()
	return ctx, func() { cancel(nil) }
}

// connect is -connect: it joins a room, or with -raw carries bytes.
func (p *process) connect() error {
	ctx, stop := untilSignal()
	defer stop()
	e, err := p.endpoint()
	if err != nil {
		return err
	}
	o := p.options.client
	config := clientConfig{
		endpoint: *e, addr: p.options.connect, console: p.console,
		to: o.to, keepReceiving: o.stay, count: o.count, timeout: o.timeout, last: o.last,
		reconnect: o.reconnect || p.console.term != nil && !p.options.given["reconnect"] && e.protocol.acknowledges(),
		persist:   o.reconnect,
	}
	switch {
	case p.options.output.raw:
		config.pipe = newRawPipe(false, p.stdin, p.stdout, p.console.progress(), runAlone)
	case o.resume != "":
		config.place, err = readPlace(o.resume)
		if err != nil {
			return err
		}
	case p.options.given["since"]:
		config.place = place{known: true, seen: uint64(o.since)}
	}
	return newClient(config).run(ctx)
}

// listen is -listen: it opens a room, or with -raw waits for one client, and serves until a signal.
func (p *process) listen() (err error) {
	ctx, stop := untilSignal()
	defer stop()
	e, err := p.endpoint()
	if err != nil {
		return err
	}
	listeners, err := listenOn(p.options.listen, e.protocol.keepAlive())
	if err != nil {
		return err
	}
	defer closeAll(listeners)
	p.keepAddress(listeners[0].Addr())
	o := p.options.server
	log, err := openLog(logOptions{
		path: o.log, stdout: p.stdout, digests: !o.logText, durable: o.sync,
		notify: func(text string) { p.console.note("%s", text) },
	})
	if err != nil {
		return err
	}
	if o.log == logStdout {
		if p.console.term != nil {
			return wrongUse("-log -: a room at a terminal needs its stdout: name a file, or off")
		}
		p.console.mute() // the records have the messages
	}
	defer func() {
		if cerr := log.close(); err == nil && cerr != nil {
			err = fmt.Errorf("closing the log: %w", cerr)
		}
	}()
	limitMemory(o.maxClients)
	config := serverConfig{
		endpoint: *e, console: p.console, log: log, sync: o.sync, history: o.history, clients: o.maxClients,
		rate: o.rate, norelay: o.norelay, invite: p.options.invite,
	}
	switch {
	case p.options.output.raw:
		config.pipe = newRawPipe(true, p.stdin, p.stdout, p.console.progress(), runAlone)
	case !o.sync: // a goroutine that waits for the disk keeps its processor for some time
		config.useProcessors = func(n int) { runtime.GOMAXPROCS(n) }
	}
	s, err := newServer(config)
	if err != nil {
		return err
	}
	return s.run(ctx, listeners)
}

// runAlone gives the process one processor for its Go code. A side of -raw that only receives has work for one
// goroutine. On a second processor the scheduler would wake a thread for each arriving segment, only to find that
// goroutine busy: a tenth of the throughput (docs/PERFORMANCE.md). Handshakes of further clients, which -raw rejects,
// take their part of the one processor.
func runAlone() { runtime.GOMAXPROCS(1) }

// How much memory a server uses beside what it needs. Up to the sum of easyMemory and easyMemoryForClient for each
// client, the heap may grow by gcPercent between two collections; above it, the collector works harder, so that what
// clients send does not make the server use twice the memory that it needs. With Go's own 100 per cent, the garbage of
// 1000 handshakes leaves 2 KiB more of unused memory between the objects of each client.
const (
	easyMemory          = 48 << 20
	easyMemoryForClient = 32 << 10
	gcPercent           = 50
)

// limitMemory sets these limits for a server of at most clients clients, where $GOMEMLIMIT and $GOGC have not set them.
func limitMemory(clients int) {
	if debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(easyMemory + easyMemoryForClient*int64(clients))
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// version returns the release, from the build's own information.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && v == "(devel)" {
			v = "devel " + s.Value
		}
	}
	return v + " " + info.GoVersion
}
