package main

// README.md says what is so.

import (
	"os"
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

// TestReadmeUsage keeps README's short usage the program's.
func TestReadmeUsage(t *testing.T) {
	if !strings.Contains(readme(t), "```text\n"+shortUsage()+"```\n") {
		t.Error("README.md does not hold the text of -help as it is")
	}
}
