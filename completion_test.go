package main

// Completion, the man page and the two tiers of help know all flags.

import (
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestFlagsTold: each flag is in -help-all, in the man page and in each shell's completion; the man page has no other.
func TestFlagsTold(t *testing.T) {
	page, err := os.ReadFile("docs/securechat.1")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{"help": true}
	for _, m := range regexp.MustCompile(`(?m)^\.It Fl ([a-z-]+)`).FindAllStringSubmatch(string(page), -1) {
		told[m[1]] = true
	}
	helps := flagHelps()
	shells := map[string]string{"bash": bashCompletion(helps), "zsh": zshCompletion(helps), "fish": fishCompletion(helps)}
	i := 0
	new(options).flags().VisitAll(func(f *flag.Flag) {
		h := helps[i]
		i++
		if h.text == "" || h.value == "VALUE" {
			t.Errorf("-help-all does not tell of -%s", f.Name)
		}
		if !told[f.Name] {
			t.Errorf("the man page does not tell of -%s", f.Name)
		}
		delete(told, f.Name)
		for shell, form := range map[string]string{"bash": `[" ]-%["= ]`, "zsh": `(?m)^\t'-%[=\[]`, "fish": `(?m) -o %[= ]`} {
			if !regexp.MustCompile(strings.Replace(form, "%", regexp.QuoteMeta(f.Name), 1)).MatchString(shells[shell]) {
				t.Errorf("%s does not complete -%s", shell, f.Name)
			}
		}
	})
	delete(told, "help")
	for name := range told {
		t.Errorf("the man page tells of -%s, which does not exist", name)
	}
}

// TestHelpTiers: -help is short and true, -help-all is all.
func TestHelpTiers(t *testing.T) {
	for arg, want := range map[string]string{"-h": shortUsage, "-help": shortUsage, "-help-all": usage} {
		if out, stderr, code := runToEnd(t, t.TempDir(), "", arg); out != want || stderr != "" || code != exitDone {
			t.Errorf("%s: exit %d, stderr %q, stdout %q", arg, code, stderr, out)
		}
	}
	if n := strings.Count(shortUsage, "\n"); n > 24 {
		t.Errorf("-help has %d lines: more than a small terminal", n)
	}
	for _, m := range regexp.MustCompile(`(?m)^  -[a-z-]+`).FindAllString(shortUsage, -1) {
		if !strings.Contains(usage, "\n"+m+" ") {
			t.Errorf("-help tells of%s, -help-all does not", m)
		}
	}
}

// TestCompletion prints what each shell takes, and refuses what is none.
func TestCompletion(t *testing.T) {
	for shell, want := range map[string]string{
		"bash": "complete -F _securechat securechat\n", "zsh": "#compdef securechat\n", "fish": "complete -c securechat -o log-text=false -d 'it keeps",
	} {
		if out, stderr, code := runToEnd(t, t.TempDir(), "", "-completion", shell); !strings.Contains(out, want) || stderr != "" || code != exitDone {
			t.Errorf("%s: exit %d, stderr %q, stdout %q", shell, code, stderr, out)
		}
	}
	if _, stderr, code := runToEnd(t, t.TempDir(), "", "-completion", "tcsh"); code != exitUsage || !strings.Contains(stderr, "bash, zsh or fish") {
		t.Errorf("tcsh: exit %d, %q", code, stderr)
	}
}
