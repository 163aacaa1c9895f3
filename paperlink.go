package main

// The paper's session (its §4, §5 and Fig. 5), the two links that carry it, and -paper as a protocol. paper.go has the
// handshake, and says what the format does not protect.

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

// A session packet (§4, Fig. 5), all of it under AES-256 in ECB:
//
//	digest   128   SHA-512 of the session key, in lower-case hex
//	msg_len   32   the bytes of msg, in binary digits
//	msg            UTF-8 text
//	padding   1-16 PKCS#5; the paper's programs omit it if it would be a whole block
const (
	paperDigest  = 2 * sha512.Size
	paperMsgLen  = 32
	paperHead    = paperDigest + paperMsgLen
	paperPacket  = 4096                        // the longest packet: the paper's programs read one with recv(4096)
	paperMaxRead = paperPacket - paperHead     // the longest msg in a packet without padding
	paperMaxSend = paperPacket - 1 - paperHead // the longest msg that we send, with padding
)

// paperGap is the shortest time between two packets; see sendText. A Python peer that logs each line on a loaded
// two-core machine read some of 150 packets as one with a gap of 20 ms, and none with 50 ms. 250 ms is also enough for
// one lost segment, which TCP sends again after 200 ms at the earliest.
const paperGap = 250 * time.Millisecond

// paperClose is the text that ends a session. It has no kind of its own, so a person who types it ends the session.
const paperClose = "secure-close"

// errPaperText is the error for a text that sendText did not send. The session continues.
var errPaperText = errors.New("this text is not UTF-8, the paper's programs would stop at it: convert it first (iconv)")

// paperConn is a session over an authenticated connection. One goroutine may read while another sends. After an error
// in one direction that direction returns the same error again, because a part of a packet may have been read or sent.
type paperConn struct {
	conn   net.Conn
	block  cipher.Block
	digest [paperDigest]byte

	sent    time.Time // when the last packet was sent, or the handshake ended
	sendErr error

	in      *bufio.Reader
	aligned bool // the last packet filled its last block, so a block of padding may follow
	readErr error
}

// newPaperConn begins a session with the key of a handshake.
func newPaperConn(conn net.Conn, key *[32]byte) *paperConn {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // 32 bytes are an AES-256 key
	}
	p := &paperConn{conn: conn, block: block, sent: time.Now(), in: bufio.NewReaderSize(conn, paperPacket)}
	digest := sha512.Sum512(key[:])
	hex.Encode(p.digest[:], digest[:])
	return p
}

// sendText sends one text, in several packets if it is longer than paperMaxSend bytes. The caller sets the write
// deadline.
//
// The paper's programs take the result of one recv(4096) for one packet, so two packets must not be in the peer's
// socket buffer together, and the peer sends no answer to wait for. Each packet is therefore one write, at least
// paperGap after the last one or after the handshake. TCP sends it at once, since Go sets TCP_NODELAY.
func (p *paperConn) sendText(text []byte) error {
	if p.sendErr != nil {
		return p.sendErr
	}
	if !utf8.Valid(text) {
		return errPaperText
	}
	for first := true; first || len(text) > 0; first = false {
		n := paperCut(text)
		time.Sleep(time.Until(p.sent.Add(paperGap)))
		if _, err := p.conn.Write(p.seal(text[:n])); err != nil {
			p.sendErr = fmt.Errorf("sending a packet: %w", err)
			return p.sendErr
		}
		p.sent = time.Now()
		text = text[n:]
	}
	return nil
}

// paperCut returns how many bytes of a valid text go into the next packet: whole characters, and never so many that
// the rest is paperClose, which would end the session.
func paperCut(text []byte) int {
	n := len(text)
	if n <= paperMaxSend {
		return n
	}
	n = paperMaxSend
	for !utf8.RuneStart(text[n]) {
		n--
	}
	if string(text[n:]) == paperClose {
		_, last := utf8.DecodeLastRune(text[:n])
		n -= last
	}
	return n
}

// seal builds one packet of at most paperMaxSend bytes of text. It always adds padding, a whole block if necessary, as
// PKCS#5 requires: the paper's programs always remove padding, and would remove text if there were none.
func (p *paperConn) seal(msg []byte) []byte {
	packet := make([]byte, 0, paperPacket)
	packet = append(packet, p.digest[:]...)
	packet = fmt.Appendf(packet, "%032b", len(msg))
	packet = append(packet, msg...)
	padding := aes.BlockSize - len(packet)%aes.BlockSize
	packet = append(packet, bytes.Repeat([]byte{byte(padding)}, padding)...)
	for b := packet; len(b) > 0; b = b[aes.BlockSize:] {
		p.block.Encrypt(b, b)
	}
	return packet
}

// readText returns the text of the next packet when its last byte has arrived. The text may be paperClose, and may be
// any bytes, UTF-8 or not. The end of a packet follows from its msg_len, however TCP joined or split packets. The error
// is io.EOF at the end of the stream between two packets, and wraps errUnverified if the packet was damaged or was not
// made with this session's key.
func (p *paperConn) readText() ([]byte, error) {
	if p.readErr != nil {
		return nil, p.readErr
	}
	text, err := p.readPacket()
	p.readErr = err
	return text, err
}

func (p *paperConn) readPacket() ([]byte, error) {
	var packet [paperPacket]byte
	// After a packet that filled its last block the next block is its padding, if the peer is this program, or the start
	// of the next packet, if the peer is one of the paper's programs. The two differ: a packet starts with hex digits.
	if err := p.readBlocks(packet[:aes.BlockSize]); err != nil {
		return nil, err
	}
	if p.aligned && bytes.Equal(packet[:aes.BlockSize], bytes.Repeat([]byte{aes.BlockSize}, aes.BlockSize)) {
		if err := p.readBlocks(packet[:aes.BlockSize]); err != nil {
			return nil, err
		}
	}

	if err := p.readRest(packet[aes.BlockSize:paperHead]); err != nil {
		return nil, err
	}
	if !paperEqual(packet[:paperDigest], p.digest[:]) {
		return nil, fmt.Errorf("a packet without this session's digest: %w", errUnverified)
	}
	msgLen, err := strconv.ParseUint(string(packet[paperDigest:paperHead]), 2, 32)
	if err != nil || msgLen > paperMaxRead {
		return nil, fmt.Errorf("a packet whose msg_len is no binary number up to %d: %w", paperMaxRead, errUnverified)
	}

	end := paperHead + int(msgLen)
	padded := (end + aes.BlockSize - 1) / aes.BlockSize * aes.BlockSize
	if err := p.readRest(packet[paperHead:padded]); err != nil {
		return nil, err
	}
	for _, b := range packet[end:padded] {
		if int(b) != padded-end {
			return nil, fmt.Errorf("a packet whose msg_len is not the length of its text: %w", errUnverified)
		}
	}
	p.aligned = padded == end
	return bytes.Clone(packet[paperHead:end]), nil
}

// readBlocks fills b, whole blocks, with plaintext from the stream. io.EOF means that the stream ended before b.
func (p *paperConn) readBlocks(b []byte) error {
	_, err := io.ReadFull(p.in, b)
	if err == io.ErrUnexpectedEOF {
		return fmt.Errorf("the connection ended inside a packet: %w", err)
	}
	if err != nil {
		return err
	}
	for ; len(b) > 0; b = b[aes.BlockSize:] {
		p.block.Decrypt(b, b)
	}
	return nil
}

// readRest is like readBlocks, for blocks inside a packet, before which the stream may not end.
func (p *paperConn) readRest(b []byte) error {
	err := p.readBlocks(b)
	if err == io.EOF {
		err = fmt.Errorf("the connection ended inside a packet: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// sendItems ignores the items: only the client sends text.
func (p *paperConn) sendItems(buf []byte, _ [][]byte, _ int) ([]byte, error) { return buf, nil }

// shareBudget does nothing: each text fits one packet.
func (p *paperConn) shareBudget(*partsBudget, string) {}

func (p *paperConn) dropped() <-chan struct{} { return nil }

// ready returns false: the bytes that a server has in its buffer may be less than a packet, and a client reads none.
func (p *paperConn) ready() bool { return false }

// setReadTimeout bounds only the wait at the end. Before that the peer may be silent for any time, since the paper's
// session has no pings, and TCP's keep-alive finds a dead peer.
func (p *paperConn) setReadTimeout(timeout time.Duration, renew bool) {
	if !renew {
		// A connection that takes no deadline is closed, and the read returns that error.
		_ = p.conn.SetReadDeadline(time.Now().Add(max(timeout, paperCloseTimeout)))
	}
}

// paperCloseTimeout is the least time that a slow server has, after our close, to read what is on the way and to close
// too.
const paperCloseTimeout = 10 * time.Second

func (p *paperConn) wipe() {
	clear(p.digest[:])
	p.block = nil
}

// paperServerLink is the server's side of a paper session as a link. Only the client sends, and nothing is
// acknowledged.
type paperServerLink struct {
	*paperConn
	lines uint64 // read so far
	bye   bool   // append took kindClose, so the next write closes the connection
}

// newPaperServerLink begins a session with the key of a handshake, which it wipes.
func newPaperServerLink(conn net.Conn, key *[32]byte) *paperServerLink {
	defer clear(key[:])
	return &paperServerLink{paperConn: newPaperConn(conn, key)}
}

// append takes secure-close, which a server sends in the paper's session by closing the connection. It ignores all
// other messages: the paper's session has no form for them.
func (p *paperServerLink) append(buf []byte, kind byte, _ []byte) ([]byte, error) {
	p.bye = p.bye || kind == kindClose
	return buf, nil
}

func (p *paperServerLink) write([]byte) error {
	if p.bye {
		return p.conn.Close()
	}
	return nil
}

// read returns the client's texts, one a message. A line too long for a packet arrives as several texts.
func (p *paperServerLink) read() (kind byte, payload []byte, err error) {
	text, err := p.readText()
	switch {
	case err == io.EOF:
		return 0, nil, errTruncated
	case err != nil:
		return 0, nil, err
	case string(text) == paperClose:
		return kindClose, []byte(closeText), nil
	}
	p.lines++
	return kindText, appendLine(appendLinesHeader(nil, p.lines, itemSay, ""), text), nil
}

// paperClientLink is the client's side of a paper session as a link. One goroutine reads, one writes, and one waits
// for the server's close; the last ends with the connection.
type paperClientLink struct {
	*paperConn
	sending [][]byte    // texts that append took for write
	bye     bool        // append took kindClose for write
	given   uint64      // lines written so far
	written chan uint64 // of capacity 1: the latest value of given
	gone    chan error  // of capacity 1: why the server's side has ended, nil if the server closed it

	leaving sync.Mutex // guards left, and is held while paperClose is written: the server may close before write returns
	left    bool       // paperClose has been written
}

// newPaperClientLink begins a session with the key of a handshake, which it wipes.
func newPaperClientLink(conn net.Conn, key *[32]byte) *paperClientLink {
	defer clear(key[:])
	p := &paperClientLink{paperConn: newPaperConn(conn, key), written: make(chan uint64, 1), gone: make(chan error, 1)}
	go func() { // ends with the connection
		// The paper's server sends nothing, and closes after it has read everything.
		_, err := io.Copy(io.Discard, conn)
		p.gone <- err
	}()
	return p
}

// append takes lines and secure-close for write, and ignores all other messages.
func (p *paperClientLink) append(buf []byte, kind byte, payload []byte) ([]byte, error) {
	switch kind {
	case kindClose:
		p.bye = true
	case kindText:
		l, err := parseLines(payload, nil)
		if err != nil {
			return nil, err
		}
		for _, text := range l.texts {
			p.sending = append(p.sending, bytes.Clone(text))
		}
	default:
		return buf, nil // the paper's session has no form for it
	}
	return append(buf, kind), nil // a byte, so that the caller calls write
}

// write sends each text within writeTimeout.
func (p *paperClientLink) write([]byte) error {
	for _, text := range p.sending {
		if err := p.send(text); err != nil {
			return err
		}
		p.given++
		select { // drop an older count that was not read
		case <-p.written:
		default:
		}
		p.written <- p.given
	}
	p.sending = nil
	if !p.bye {
		return nil
	}
	p.leaving.Lock()
	defer p.leaving.Unlock()
	if err := p.send([]byte(paperClose)); err != nil {
		return err
	}
	p.left = true
	if half, ok := p.conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

func (p *paperClientLink) send(text []byte) error {
	if err := p.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return p.sendText(text)
}

// read returns kindSent for lines that were written, and kindClose if the server closes after paperClose: then the
// server has read all lines.
func (p *paperClientLink) read() (kind byte, payload []byte, err error) {
	select {
	case n := <-p.written:
		return kindSent, binary.BigEndian.AppendUint64(nil, n), nil
	case err := <-p.gone:
		if err != nil {
			return 0, nil, err
		}
	}
	p.leaving.Lock()
	defer p.leaving.Unlock()
	if !p.left {
		return 0, nil, errTruncated
	}
	return kindClose, []byte(closeText), nil
}

// paperMode is the protocol of -paper.
type paperMode struct {
	me    *rsa.PrivateKey
	id    ssh.PublicKey // me's
	trust *trust        // the state folder of securechat/2, whose keys are refused, as are revoked ones
	peers []*rsa.PublicKey
	names []string // of peers
	delay time.Duration
	trace tracer // -trace; nil if off
}

// loadPaper reads the keys for -paper. It rejects a key that securechat/2 uses too, because with -paper a key signs
// numbers that the peer chooses. dir is the state folder of securechat/2.
func loadPaper(identity string, peers []string, dir string, delay time.Duration, trace tracer,
	note func(string, ...any)) (*endpoint, error) {
	t := openTrust(dir, nil, "", note)
	me, err := loadPaperPrivate(identity)
	if err != nil {
		return nil, err
	}
	id, err := ssh.NewPublicKey(&me.PublicKey)
	if err != nil {
		return nil, err
	}
	if err := refuseSharedKey(t, id); err != nil {
		return nil, fmt.Errorf("%s: %w", identity, err)
	}
	p := &paperMode{me: me, id: id, trust: t, delay: delay, trace: trace}
	for _, path := range peers {
		key, err := loadPaperPublic(path)
		if err != nil {
			return nil, err
		}
		if key.Equal(&me.PublicKey) {
			return nil, fmt.Errorf("%s is the public key of -identity: "+
				"each side of the paper's protocol has a key of its own", path)
		}
		name := filepath.Base(path)
		for _, suffix := range []string{".pub", ".pem", "_pub"} {
			name = strings.TrimSuffix(name, suffix)
		}
		pub, err := ssh.NewPublicKey(key)
		if err == nil {
			err = t.checkKey(pub)
		}
		if err == nil {
			err = refuseSharedKey(t, pub)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		p.peers, p.names = append(p.peers, key), append(p.names, keyName(name, pub))
	}
	note(paperWarning)
	return &endpoint{protocol: p, id: id, name: keyName("", id)}, nil
}

// errPaperKey is the error for a key of another kind than RSA.
var errPaperKey = fmt.Errorf("the paper's protocol needs an RSA-%d key: "+
	"make one with ssh-keygen -t rsa -b %[1]d -m PEM", paperBits)

// loadPaperPrivate reads an RSA-2048 private key: PEM (PKCS#1 or PKCS#8) or OpenSSH's format, without a passphrase.
func loadPaperPrivate(path string) (*rsa.PrivateKey, error) {
	data, mode, err := readFile(path, maxKeyFile)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	key, err := parsePaperPrivate(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := checkPrivate(path, mode); err != nil { // only now: a public key given by mistake may be readable by all
		return nil, err
	}
	return key, nil
}

func parsePaperPrivate(data []byte) (*rsa.PrivateKey, error) {
	block, rest := pem.Decode(data)
	switch {
	case block == nil:
		return nil, errors.New("it holds no private key: give a PEM or OpenSSH private key file (-identity)")
	case block.Type == "PUBLIC KEY" || block.Type == "RSA PUBLIC KEY":
		return nil, errors.New("it holds a public key: give the private one (-identity)")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("it holds more than one key: give a file with one")
	}
	raw, err := ssh.ParseRawPrivateKey(data) // PKCS#1, PKCS#8 and OpenSSH, each with its consistency checks
	if _, locked := err.(*ssh.PassphraseMissingError); locked || block.Type == "ENCRYPTED PRIVATE KEY" {
		return nil, errors.New("the key has a passphrase, which -paper does not ask for: " +
			"copy the file and take it off the copy with ssh-keygen -p -N '' -m PEM -f COPY")
	}
	if err != nil {
		return nil, errors.New("the private key does not parse: it is damaged or of an unknown type")
	}
	key, ok := raw.(*rsa.PrivateKey)
	if !ok {
		return nil, errPaperKey
	}
	if err := checkPaperKeys(&key.PublicKey); err != nil {
		return nil, err
	}
	return key, nil
}

// loadPaperPublic reads an RSA-2048 public key: PEM (SPKI or PKCS#1) or one line as in id_rsa.pub.
func loadPaperPublic(path string) (*rsa.PublicKey, error) {
	data, _, err := readFile(path, maxKeyFile)
	if err != nil {
		return nil, err
	}
	key, err := parsePaperPublic(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

func parsePaperPublic(data []byte) (*rsa.PublicKey, error) {
	var raw any
	var err error
	block, rest := pem.Decode(data)
	switch {
	case block == nil:
		line, _, options, left, perr := ssh.ParseAuthorizedKey(data)
		if perr != nil {
			return nil, errors.New("it holds no public key: give a PEM public key or an SSH .pub file (-peer)")
		}
		if len(options) > 0 {
			return nil, errors.New("its line has options, which -paper cannot keep: give the key alone")
		}
		rest = left
		if c, ok := line.(ssh.CryptoPublicKey); ok {
			raw = c.CryptoPublicKey()
		}
	case block.Type == "PUBLIC KEY":
		raw, err = x509.ParsePKIXPublicKey(block.Bytes)
	case block.Type == "RSA PUBLIC KEY":
		raw, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		return nil, errors.New("it holds no public key: give the peer's public key alone, never a private one (-peer)")
	}
	key, ok := raw.(*rsa.PublicKey)
	switch {
	case err != nil:
		return nil, errors.New("the public key does not parse: it is damaged or of an unknown type")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("it holds more than one key: give each a file and a -peer of its own")
	case !ok:
		return nil, errPaperKey
	}
	if err := checkPaperKeys(key); err != nil {
		return nil, err
	}
	return key, nil
}

// refuseSharedKey returns an error if id is also a key of securechat/2.
func refuseSharedKey(t *trust, id ssh.PublicKey) error {
	use, err := t.keyUse(id)
	if err != nil || use == "" {
		return err
	}
	return fmt.Errorf("this key serves the default protocol too (%s), and with -paper it signs what a peer chooses: "+
		"make a key for -paper alone", use)
}

// tracer returns p.trace with prefix before each line.
func (p *paperMode) tracer(prefix string) tracer {
	if p.trace == nil {
		return nil
	}
	return func(line string) { p.trace(prefix + line) }
}

// keepAlive leaves Go's default on, since the paper's session has no pings.
func (p *paperMode) keepAlive() time.Duration { return 0 }

func (p *paperMode) acknowledges() bool { return false }

func (p *paperMode) watch() *fileWatch { return p.trust.fileWatch() }

// recheckServer refuses a peer, on either side, whose key was revoked or has come to serve the default protocol.
func (p *paperMode) recheckServer(peer *peer, _ time.Time) error {
	if err := p.trust.checkKey(peer.key); err != nil {
		return err
	}
	if err := refuseSharedKey(p.trust, peer.key); isSystemError(err) {
		return &untrusted{kind: undecided, reason: err.Error()}
	} else if err != nil {
		return refuse("%v", err)
	}
	return nil
}

func (p *paperMode) recheckClients() func(client *peer, now time.Time) (time.Time, error) {
	return func(client *peer, now time.Time) (time.Time, error) { return time.Time{}, p.recheckServer(client, now) }
}

func (p *paperMode) check(line outLine) error {
	switch {
	case line.what != itemSay:
		return errors.New("the paper's session carries plain text alone, to everyone")
	case !utf8.Valid(line.text):
		return errors.New("a line that is not UTF-8 was not sent: the paper's programs would stop at it; " +
			"convert it first (iconv)")
	case string(line.text) == paperClose:
		return errors.New(paperClose + " was not sent: in the paper's session this text ends it")
	}
	return nil
}

func (p *paperMode) accept(conn *pacedConn) (*peer, link, joinRequest, error) {
	from := newPeer(conn)
	key, i, err := paperServerHandshake(conn, p.me, p.peers, p.delay, p.tracer(from.addr+"  "))
	if err != nil {
		return from, nil, joinRequest{}, err
	}
	id, err := ssh.NewPublicKey(p.peers[i])
	if err != nil {
		return from, nil, joinRequest{}, err
	}
	from.identify(id)
	if err := p.recheckServer(from, time.Now()); err != nil {
		return from, nil, joinRequest{}, err
	}
	from.name, from.admittedBy = p.names[i], "-peer "+p.names[i]
	digest := sha512.Sum512(key[:])
	from.digest = digest[:]
	rand.Read(from.stream[:])
	return from, newPaperServerLink(conn.Conn, &key), joinRequest{stream: from.stream}, nil
}

func (p *paperMode) dial(conn *pacedConn, _ joinRequest) (*peer, link, welcome, error) {
	id, err := ssh.NewPublicKey(p.peers[0])
	if err != nil {
		return nil, nil, welcome{}, err
	}
	server := newPeer(conn)
	server.name = p.names[0]
	server.identify(id)
	if err := p.recheckServer(server, time.Now()); err != nil {
		return nil, nil, welcome{}, err
	}
	key, err := paperClientHandshake(conn, p.me, p.peers[0], p.delay, p.tracer(""))
	if err != nil {
		err = fmt.Errorf("handshake: %w", err)
		switch {
		case errors.Is(err, errUnverified):
			return nil, nil, welcome{}, err
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF): // as from a server that does not list our key
			return nil, nil, welcome{}, &untrusted{
				reason: err.Error(),
				hint:   "if each side has the other's key, it might be a man-in-the-middle attack",
			}
		}
		return nil, nil, welcome{}, errUnreachable{err}
	}
	return server, newPaperClientLink(conn.Conn, &key), welcome{name: keyName("", p.id)}, nil
}

// paperWarning is printed once at the start.
const paperWarning = `-paper speaks the paper's own protocol, for its programs and its readers. What it does not give:
  any registered third party can plant the session key, and an old stage 4 can be replayed
  who gets the client's key opens every recorded session
  nothing guards the session's text: it can be changed, repeated and dropped on the way
  nothing is acknowledged, and the server passes nothing on: the paper's clients do not read`
