package main

// The documents refer only to files, headings, tests and benchmarks that exist.

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	fencedCode  = regexp.MustCompile("(?ms)^[ \t]*```.*?^[ \t]*```$")
	markdownRef = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	testName    = regexp.MustCompile("`((?:Test|Benchmark|Fuzz)[A-Z]\\w*)`")
	testFunc    = regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz)\w+)\(`)
	heading     = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	notInAnchor = regexp.MustCompile(`[^\pL\pN_ -]`)
)

// anchors returns the fragments by which GitHub's pages name the headings of a document.
func anchors(text string) (names []string) {
	for _, h := range heading.FindAllStringSubmatch(fencedCode.ReplaceAllString(text, ""), -1) {
		names = append(names, strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-"))
	}
	return names
}

// brokenReferences returns each relative link without a file or heading, and each name of a test that does not exist.
func brokenReferences(documents map[string]string, exists func(name string) bool, tests []string) (faults []string) {
	for name, text := range documents {
		text = fencedCode.ReplaceAllString(text, "")
		for _, ref := range markdownRef.FindAllStringSubmatch(text, -1) {
			file, anchor, _ := strings.Cut(ref[1], "#")
			target := name
			if file != "" {
				target = path.Join(path.Dir(name), file)
			}
			switch {
			case strings.Contains(ref[1], "://"):
			case !exists(target):
				faults = append(faults, fmt.Sprintf("%s links to %s, which does not exist", name, ref[1]))
			case anchor != "" && !slices.Contains(anchors(documents[target]), anchor):
				faults = append(faults, fmt.Sprintf("%s links to %s, which has no such heading", name, ref[1]))
			}
		}
		for _, m := range testName.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(tests, m[1]) {
				faults = append(faults, fmt.Sprintf("%s names %s, which is not a test", name, m[1]))
			}
		}
	}
	slices.Sort(faults)
	return faults
}

// TestReferences checks the links of all documents, and the names of tests in them.
func TestReferences(t *testing.T) {
	documents := map[string]string{}
	var tests []string
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name == ".git" && d.IsDir() {
			return fs.SkipDir
		}
		markdown, test := path.Ext(name) == ".md", strings.HasSuffix(name, "_test.go")
		if !markdown && !test {
			return nil
		}
		b, err := os.ReadFile(name)
		if markdown {
			documents[name] = string(b)
		} else {
			for _, m := range testFunc.FindAllStringSubmatch(string(b), -1) {
				tests = append(tests, m[1])
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	exists := func(name string) bool { _, err := os.Stat(name); return err == nil }
	if documents["README.md"] == "" || len(tests) == 0 {
		t.Fatal("no documents or no tests were found")
	}
	for _, fault := range brokenReferences(documents, exists, tests) {
		t.Error(fault)
	}
}

// TestReferencesFindsFaults shows that TestReferences can fail: for a missing file, heading and test.
func TestReferencesFindsFaults(t *testing.T) {
	documents := map[string]string{
		"a.md": "# One, `two`\n[good](b/c.md#three-3) [good](#one-two) " +
			"[good](https://example.org/#x)\n```\n[code](gone)\n```\n" +
			"[bad](b/d.md) [bad](b/c.md#four) `TestOne` `TestTwo`\n",
		"b/c.md": "## Three (3)\n[good](../a.md) [bad](a.md)\n```\n# four\n```\n",
	}
	exists := func(name string) bool { return documents[name] != "" }
	want := []string{
		"a.md links to b/c.md#four, which has no such heading",
		"a.md links to b/d.md, which does not exist",
		"a.md names TestTwo, which is not a test",
		"b/c.md links to a.md, which does not exist",
	}
	if got := brokenReferences(documents, exists, []string{"TestOne"}); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
