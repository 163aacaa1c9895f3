package main

// The table of flags: what it accepts and refuses, and that help, the man page and completion agree with it.

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// flagTable returns the rows of the table.
func flagTable() []option { return rows(new(options).table()) }

// wantUsageError parses a command line, which must be wrong for a reason that contains want.
func wantUsageError(t *testing.T, line, want string) {
	t.Helper()
	o, err := parseFlags(strings.Fields(line))
	switch {
	case err == nil:
		t.Errorf("%s: accepted as %+v, want %q", line, o, want)
	case !errors.As(err, new(errUsage)) || !strings.Contains(err.Error(), want):
		t.Errorf("%s: %v, want %q", line, err, want)
	}
}

// TestOptionTable checks that every row is complete and refers only to flags that exist.
func TestOptionTable(t *testing.T) {
	exists := map[string]bool{}
	for _, row := range flagTable() {
		if exists[row.name] {
			t.Errorf("-%s is in the table twice", row.name)
		}
		exists[row.name] = true
	}
	for _, row := range flagTable() {
		if _, isSwitch := row.field.(*bool); isSwitch != (row.value == "") {
			t.Errorf("-%s: a switch has no value, every other flag has one; this one's is %q", row.name, row.value)
		}
		if row.help == "" {
			t.Errorf("-%s has no help", row.name)
		}
		for _, other := range slices.Concat(row.needs, row.excludes) {
			if !exists[other] {
				t.Errorf("-%s refers to -%s, which does not exist", row.name, other)
			}
		}
		for _, other := range row.excludes {
			if excludedBy[other] == "" {
				t.Errorf("-%s excludes -%s without a reason", row.name, other)
			}
		}
	}
}

// TestFlagDefaults compares the values of flags that are not given with what the documents promise.
func TestFlagDefaults(t *testing.T) {
	o, err := parseFlags([]string{"-listen", ":9000"})
	if err != nil {
		t.Fatal(err)
	}
	want := serverFlags{log: "connection.log", logText: true, maxClients: 1024, history: 1000}
	keys := keyFlags{typ: "ed25519"}
	if o.server != want || o.keys != keys || o.client != (clientFlags{}) || o.output != (outputFlags{}) {
		t.Errorf("%+v", o)
	}
}

// TestFlagValues parses one value for each flag that has one.
func TestFlagValues(t *testing.T) {
	o, err := parseFlags(strings.Fields("-connect :9000 -dir d -identity i -passphrase-file p -type rsa -bits 3072 " +
		"-comment c -join -accept-new -to bob -count 3 -timeout 2m -reconnect -json -quiet -quiet-joins -nobell -trace"))
	if err != nil {
		t.Fatal(err)
	}
	keys := keyFlags{dir: "d", identity: "i", passphraseFile: "p", typ: "rsa", comment: "c", bits: 3072}
	client := clientFlags{
		join: true, acceptNew: true, to: "bob", stay: true, reconnect: true, count: 3, timeout: 2 * time.Minute,
	}
	output := outputFlags{json: true, quiet: true, quietJoins: true, nobell: true, trace: true}
	if o.mode != "connect" || o.connect != "localhost:9000" ||
		o.keys != keys || o.client != client || o.output != output {
		t.Errorf("%+v", o)
	}
	o, err = parseFlags(strings.Fields("-listen systemd -invite anna -log off -log-text=false -sync -max-clients 2 " +
		"-rate 3 -norelay -history 0 -delay 5s"))
	if err != nil {
		t.Fatal(err)
	}
	server := serverFlags{log: "off", sync: true, maxClients: 2, rate: 3, norelay: true, delay: 5 * time.Second}
	if o.mode != "listen" || o.listen != fromSystemd || o.invite != "anna" || o.server != server {
		t.Errorf("%+v", o)
	}
	o, err = parseFlags(strings.Fields("-paper -listen :1 -identity i -peer a -peer b"))
	if err != nil || !o.paper.on || !slices.Equal(o.paper.peers, []string{"a", "b"}) || o.server.delay != time.Second {
		t.Errorf("%+v, %v", o, err)
	}
	o, err = parseFlags(strings.Fields("-verify-log log.1 log"))
	if err != nil || o.mode != "verify-log" || !slices.Equal(o.verifyLog, []string{"log.1", "log"}) {
		t.Errorf("%+v, %v", o, err)
	}
	for _, line := range []string{"-verify-log -head H log.1 log", "-verify-log log.1 -head H log",
		"-verify-log log.1 log -head H", "-head H -verify-log log.1 log"} {
		o, err := parseFlags(strings.Fields(strings.Replace(line, "H", noHash, 1)))
		if err != nil || o.head != noHash || !slices.Equal(o.verifyLog, []string{"log.1", "log"}) {
			t.Errorf("%s: %+v, %v", line, o, err)
		}
	}
	for line, stay := range map[string]bool{
		"-connect :1": false, "-connect :1 -count 3": true, "-connect :1 -timeout 1s": true,
	} {
		if o, err := parseFlags(strings.Fields(line)); err != nil || o.client.stay != stay {
			t.Errorf("%s: %+v, %v; want stay %v", line, o, err, stay)
		}
	}
	for line, want := range map[string]string{
		"-listen 9010": ":9010", "-listen localhost": "localhost:9000", "-listen [::1]": "[::1]:9000",
		"-connect host": "host:9000", "-connect ::1": "[::1]:9000", "-connect [fe80::1%eth0]": "[fe80::1%eth0]:9000",
		"-connect 9010": "localhost:9010", "-connect [::1]:1": "[::1]:1", "host": "host:9000", "-stay host:1 -json": "host:1",
	} {
		if o, err := parseFlags(strings.Fields(line)); err != nil || o.listen+o.connect != want {
			t.Errorf("%s: %+v, %v; want %s", line, o, err, want)
		}
	}
	if o, err := parseFlags(strings.Fields("host -timeout 10")); err != nil || o.client.timeout != 10*time.Second {
		t.Errorf("%+v, %v", o, err)
	}
	for line, mode := range map[string]string{
		"-h": "help", "-help": "help", "-listen :1 -help": "help", "-connect :1 -join -help-all": "help-all",
		"-keygen": "keygen", "-fingerprint": "fingerprint", "-allow f -force": "allow", "-invite anna": "invite",
		"-completion fish": "completion", "-version": "version", "-keygen=false -fingerprint": "fingerprint",
	} {
		if o, err := parseFlags(strings.Fields(line)); err != nil || o.mode != mode {
			t.Errorf("%s: %+v, %v; want mode %s", line, o, err, mode)
		}
	}
}

// flagSamples are valid values of the flags that have one.
var flagSamples = map[string]string{
	"listen": ":9000", "connect": "host:9000", "invite": "anna", "allow": "f", "verify-log": "f", "completion": "bash",
	"identity": "f", "passphrase-file": "f", "type": "rsa", "bits": "2048", "comment": "anna", "dir": "d", "to": "bob",
	"count": "1", "resume": "f", "since": "1", "last": "1", "timeout": "1s", "log": "f",
	"max-clients": "1", "rate": "1", "history": "1", "delay": "1s", "peer": "f",
	"head": noHash,
}

// sample returns a flag with a valid value.
func sample(name string) string {
	if value := flagSamples[name]; value != "" {
		return " -" + name + "=" + value
	}
	return " -" + name
}

// TestFlagConflicts has every flag that belongs to a mode refused in another mode, and every flag that excludes another
// one refused together with that one. All other pairs are accepted.
func TestFlagConflicts(t *testing.T) {
	belongs := map[string]string{
		"force": "allow", "delay": "listen or -connect", "paper": "listen or -connect", "peer": "paper",
		"head": "verify-log",
	}
	for name := range strings.FieldsSeq("join accept-new to stay count timeout resume since last reconnect") {
		belongs[name] = "connect"
	}
	for name := range strings.FieldsSeq("log log-text sync max-clients rate norelay history bridge") {
		belongs[name] = "listen"
	}
	excluded := map[string][]string{
		"raw": strings.Fields("to stay count resume since last reconnect rate norelay history bridge paper " +
			"json nobell quiet-joins"),
		"paper": strings.Fields("invite passphrase-file type bits comment join accept-new to resume since last reconnect"),
	}
	for _, row := range flagTable() {
		if row.mode {
			continue
		}
		if modes := belongs[row.name]; modes != "" {
			wantUsageError(t, "-fingerprint"+sample(row.name), "-"+row.name+" belongs to -"+modes)
		} else if _, err := parseFlags(strings.Fields("-fingerprint" + sample(row.name))); err != nil {
			t.Errorf("-fingerprint%s: %v", sample(row.name), err)
		}
	}
	for other, names := range excluded {
		for _, row := range flagTable() {
			line := "-connect=host:9000"
			if belongs[row.name] == "listen" || row.name == "invite" {
				line = "-listen=:9000"
			}
			if row.mode && row.name != "invite" || row.name == other || row.name == "force" || row.name == "head" {
				continue
			}
			line += sample(row.name) + " -" + other
			if slices.Contains(names, row.name) {
				wantUsageError(t, line, "-"+row.name+" and -"+other+" exclude each other: ")
				continue
			}
			if other == "raw" && (row.name == "peer" || row.name == "delay") {
				continue // they need -paper, which excludes -raw
			}
			if other == "paper" {
				line += " -identity i"
				if row.name != "peer" {
					line += " -peer p"
				}
			}
			if _, err := parseFlags(strings.Fields(line)); err == nil {
				continue
			} else if other != "paper" || row.name != "raw" {
				t.Errorf("%s: %v", line, err)
			}
		}
	}
}

// TestModeConflicts has every two modes refused together, except -listen with -invite.
func TestModeConflicts(t *testing.T) {
	for i, a := range flagTable() {
		for _, b := range flagTable()[i+1:] {
			if !a.mode || !b.mode || b.name == "help" || b.name == "help-all" || a.name == "help" {
				continue
			}
			line := sample(a.name) + sample(b.name)
			if a.name == "listen" && b.name == "invite" {
				if _, err := parseFlags(strings.Fields(line)); err != nil {
					t.Errorf("%s: %v", line, err)
				}
				continue
			}
			wantUsageError(t, line, "-"+a.name+" and -"+b.name+" exclude each other: start one process for each")
		}
	}
}

// TestWrongFlagValues has each wrong value refused by an error that names the flag.
func TestWrongFlagValues(t *testing.T) {
	manyPeers := "-listen :1 -paper -identity i" + strings.Repeat(" -peer p", maxPeers+1)
	badName := "-connect :1 -to " + strings.Repeat("x", maxShown+1)
	for line, want := range map[string]string{
		"":                                   "nothing to do: -listen :9000 opens a room",
		"-keygen=false":                      "nothing to do",
		"-listen":                            "flag needs an argument: -listen; -help-all lists the flags",
		"-lissten :9000":                     "not defined: -lissten; -help-all lists the flags",
		"-listen :9000 extra":                `unexpected argument "extra"`,
		"-listen=":                           "-listen needs a value",
		"-listen host:":                      "-listen host:: give a host and a port",
		"-listen 99999":                      `-listen 99999: "99999" is not a port`,
		"-listen :x-y":                       `-listen :x-y: "x-y" is not a port`,
		"-connect=":                          "-connect needs a value",
		"-connect a:b:c":                     "-connect a:b:c: give a host and a port",
		"host:1 more":                        `unexpected argument "more"`,
		"-join code":                         "-join takes no code",
		"-connect host:99999":                `-connect host:99999: "99999" is not a port`,
		"-allow=":                            "-allow needs a value",
		"-invite an/na":                      "-invite: ",
		"-invite=":                           "-invite: ",
		"-verify-log=":                       "-verify-log needs a value",
		"-completion tcsh":                   "-completion tcsh: give bash, zsh or fish",
		"-completion=":                       "give bash, zsh or fish",
		"-keygen=perhaps":                    `invalid boolean value "perhaps" for -keygen`,
		"-keygen -type dsa":                  "-type: ",
		"-keygen -bits 1024":                 "-bits: ",
		"-keygen -bits 1k":                   `invalid value "1k" for flag -bits: give a whole number, such as 5`,
		"-keygen -comment a\x07":             "-comment: ",
		"-connect :1 -count 0":               "-count 0: it must be positive",
		"-connect :1 -count many":            `invalid value "many" for flag -count: give a whole number`,
		"-connect :1 -timeout -1s":           "-timeout -1s: it must be positive",
		"-connect :1 -timeout 0s":            "-timeout 0s: it must be positive",
		"-connect :1 -timeout ten":           `invalid value "ten" for flag -timeout: give a time, such as 10s or 2m`,
		"-connect :1 -join code":             "-join takes no code",
		"-connect :1 -join=code":             "-join takes no code",
		"-listen :1 -max-clients 0":          "-max-clients 0: it must be from 1 to 1048576",
		"-listen :1 -rate 0":                 "-rate 0: it must be from 1 to 1048576",
		"-listen :1 -max-clients 1048577":    "-max-clients 1048577: it must be from 1 to 1048576",
		"-listen :1 -history -1":             "-history -1: it must be a number of messages",
		"-connect :1 -last 0":                "-last 0: it must be positive",
		"-connect :1 -since -1":              "-since -1: it must be the number of a message",
		"-connect :1 -since 1 -last 1":       "-last and -since exclude each other",
		"-connect :1 -since 1 -resume f":     "-resume and -since exclude each other",
		"-listen :1 -delay 6s":               "-delay 6s: it must be from 0s to 5s",
		"-listen :1 -delay -1s":              "-delay -1s: it must be from 0s to 5s",
		"-connect :1 -delay 1s":              "-delay belongs to -listen, or to -paper on either side",
		"-listen :1 -paper":                  "-paper needs -identity FILE",
		"-listen :1 -paper -identity i":      "-paper needs -identity FILE",
		"-listen :1 -paper -peer p":          "-paper needs -identity FILE",
		"-connect :1 -peer p":                "-peer belongs to -paper",
		"-keygen -paper -identity i -peer p": "-paper belongs to -listen or -connect",
		"-paper -connect :1 -identity i -peer a -peer b": "-paper -connect takes one -peer FILE",
		manyPeers: "-peer was given 65 times: 64 clients at most",
		badName:   "-to: ",
	} {
		wantUsageError(t, line, want)
	}
}

// TestFlagErrorOrder has wrong flags reported in the order of the table, whatever their order on the command line.
func TestFlagErrorOrder(t *testing.T) {
	for _, c := range []struct {
		line  string
		wants []string // each error after the flag of the error before it is left out
	}{
		{"-listen=:1 -count=3 -stay -join -bits=1", []string{
			"-bits: ", "-join belongs", "-stay belongs", "-count belongs",
		}},
		{"-connect=:1 -history=-1 -sync -log=f", []string{"-log belongs", "-sync belongs", "-history belongs"}},
		{"-connect=:1 -raw -nobell -json -to=bob", []string{"-to and -raw", "-json and -raw", "-nobell and -raw"}},
	} {
		flags := strings.Fields(c.line)
		for _, want := range c.wants {
			name := want[:strings.IndexAny(want, ": ")]
			for range len(flags) {
				flags = append(flags[1:], flags[0])
				wantUsageError(t, strings.Join(flags, " "), want)
			}
			flags = slices.DeleteFunc(flags, func(f string) bool { f, _, _ = strings.Cut(f, "="); return f == name })
		}
		if _, err := parseFlags(flags); err != nil {
			t.Errorf("%q: %v", flags, err)
		}
	}
}

// TestHelpTexts compares -help and -help-all with the table. -help fits a terminal of 80 columns and 24 lines.
func TestHelpTexts(t *testing.T) {
	short, full := shortUsage(), fullUsage()
	for arg, want := range map[string]string{"-h": short, "-help": short, "-help-all": full} {
		if out, stderr, code := runToEnd(t, t.TempDir(), "", arg); out != want || stderr != "" || code != exitDone {
			t.Errorf("%s: exit %d, stderr %q, stdout %q", arg, code, stderr, out)
		}
	}
	if n := strings.Count(short, "\n"); n > 24 {
		t.Errorf("-help has %d lines", n)
	}
	for line := range strings.Lines(short + full) {
		if len(line) > usageWidth+1 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
	for _, row := range flagTable() {
		flag := "\n  " + strings.TrimSpace("-"+row.shown()+" "+row.value) + " "
		if !strings.Contains(full, flag) {
			t.Errorf("-help-all lacks -%s", row.name)
		}
		if row.common != strings.Contains(short, flag) {
			t.Errorf("-%s is common: %v, and -help does not agree", row.name, row.common)
		}
	}
	for _, m := range regexp.MustCompile(`(?m) -([a-z-]+)`).FindAllStringSubmatch(commands, -1) {
		if !slices.ContainsFunc(flagTable(), func(row option) bool { return row.name == m[1] }) {
			t.Errorf("-help names -%s, which does not exist", m[1])
		}
	}
}

// TestManPage checks that the man page explains each flag of the table, with its value and its default, and no other.
func TestManPage(t *testing.T) {
	page, err := os.ReadFile("docs/securechat.1")
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]string{}
	for entry := range strings.SplitSeq(string(page), "\n.It ") {
		if m := regexp.MustCompile(`^Fl ([a-z-]+)`).FindStringSubmatch(entry); m != nil {
			if entries[m[1]] != "" {
				t.Errorf("the man page explains -%s twice", m[1])
			}
			entries[m[1]] = entry
		}
	}
	for _, row := range flagTable() {
		entry := entries[row.name]
		delete(entries, row.name)
		head, text, _ := strings.Cut(entry, "\n")
		switch {
		case entry == "":
			t.Errorf("the man page does not explain -%s", row.name)
		case strings.Contains(head, " Ar") != (row.value != ""):
			t.Errorf("-%s has the value %q, the man page shows %q", row.name, row.value, head)
		case row.initial != "" && !row.onByDefault() && !strings.Contains(text, row.initial):
			t.Errorf("the man page does not give the default of -%s, %s", row.name, row.initial)
		}
	}
	for name := range entries {
		t.Errorf("the man page explains -%s, which does not exist", name)
	}
}

// TestCompletion prints the completion of each shell, which knows every flag.
func TestCompletion(t *testing.T) {
	for shell, c := range map[string]struct{ flag, begin string }{
		"bash": {`names="(\S+ )*%(=false)?[" ](.*\n)*.*dashes=--\n`, "# securechat -completion bash"},
		"zsh":  {`\n\t'-%(=-)?\[.*\n\t'--%(=-)?\[`, "#compdef securechat\n"},
		"fish": {` -o %(=false)? -l %(=false)? `, "# securechat -completion fish"},
	} {
		out, stderr, code := runToEnd(t, t.TempDir(), "", "-completion", shell)
		if !strings.HasPrefix(out, c.begin) || stderr != "" || code != exitDone {
			t.Errorf("%s: exit %d, stderr %q, stdout %q", shell, code, stderr, out)
		}
		for _, row := range flagTable() {
			if !regexp.MustCompile(strings.ReplaceAll(c.flag, "%", regexp.QuoteMeta(row.name))).MatchString(out) {
				t.Errorf("%s does not complete -%s", shell, row.name)
			}
		}
	}
}
