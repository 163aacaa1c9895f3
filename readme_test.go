package main

// README.md says what is so.

import (
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
)

func readme(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestReadmeUsage keeps README's usage the program's.
func TestReadmeUsage(t *testing.T) {
	if !strings.Contains(readme(t), "```text\n"+usage+"```\n") {
		t.Error("README.md does not hold the text of -help-all as it is")
	}
	for _, flag := range regexp.MustCompile(`(?m)^  (-[a-z-]+)`).FindAllStringSubmatch(usage, -1) {
		if _, err := parseFlags([]string{flag[1] + "=x"}, io.Discard); err != nil && strings.Contains(err.Error(), "not defined") {
			t.Errorf("-help tells of %s, which does not exist", flag[1])
		}
	}
}
