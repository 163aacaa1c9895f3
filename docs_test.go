package main

// The documents agree with the code: README's usage text, ARCHITECTURE.md's layers, the man page, -help and -help-all,
// and the shells' completion.

import (
	"bufio"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
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

// TestReadmeUsage checks that README.md contains the text of -help.
func TestReadmeUsage(t *testing.T) {
	if !strings.Contains(readme(t), "```text\n"+shortUsage()+"```\n") {
		t.Error("README.md does not hold the text of -help as it is")
	}
}

// TestManPageAndCompletion: the man page explains each flag of the table and no other, and each shell completes it.
func TestManPageAndCompletion(t *testing.T) {
	page, err := os.ReadFile("docs/securechat.1")
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\.It Fl ([a-z-]+)`).FindAllStringSubmatch(string(page), -1) {
		explained[m[1]] = true
	}
	rows := completed()
	shells := map[string]string{"bash": bashCompletion(rows), "zsh": zshCompletion(rows), "fish": fishCompletion(rows)}
	for _, row := range rows {
		if row.help == "" {
			t.Errorf("-%s has no help", row.name)
		}
		if !explained[row.name] {
			t.Errorf("the man page does not explain -%s", row.name)
		}
		delete(explained, row.name)
		for shell, form := range map[string]string{"bash": `[" ]-%["= ]`, "zsh": `(?m)^\t'-%[=\[]`, "fish": `(?m) -o %[= ]`} {
			if !regexp.MustCompile(strings.Replace(form, "%", regexp.QuoteMeta(row.name), 1)).MatchString(shells[shell]) {
				t.Errorf("%s does not complete -%s", shell, row.name)
			}
		}
	}
	for name := range explained {
		t.Errorf("the man page explains -%s, which does not exist", name)
	}
}

// TestOptionTable: every row is complete and names only flags that exist.
func TestOptionTable(t *testing.T) {
	rows := completed()
	exists := map[string]bool{}
	for _, row := range rows {
		if exists[row.name] {
			t.Errorf("-%s stands twice in the table", row.name)
		}
		exists[row.name] = true
	}
	for _, row := range rows {
		if _, isSwitch := row.field.(*bool); isSwitch != (row.value == "") {
			t.Errorf("-%s: its value is %q", row.name, row.value)
		}
		for _, other := range append(row.modes, row.excludes...) {
			if !exists[other] {
				t.Errorf("-%s names -%s, which does not exist", row.name, other)
			}
		}
		for _, other := range row.excludes {
			if excludedBy[other] == "" {
				t.Errorf("-%s excludes -%s without a reason", row.name, other)
			}
		}
	}
}

// TestFlagErrors: a wrong command line gives one error, the first in the order of the table, and the error names the
// flag.
func TestFlagErrors(t *testing.T) {
	for line, want := range map[string]string{
		"-listen :1 -stay -join -count 3":      "-join belongs to -connect",
		"-connect x:1 -sync -log f -history 3": "-log belongs to -listen",
		"-connect x:1 -raw -json -nobell -to bob": "-to and -raw exclude each other: -raw carries bytes, not " +
			"messages",
		"-listen :1 -paper -bits 2048 -type rsa": "-type and -paper exclude each other: the paper's protocol " +
			"has nothing like it",
		"-listen :1 -peer f": "-peer belongs to -paper",
		"-listen :1 -paper":  "-paper needs -identity FILE",
		"-connect x:1 -paper -identity i -peer a -peer b":     "-paper -connect takes one -peer FILE",
		"-connect x:1 -delay 1s":                              "-delay belongs to -listen, or to -paper on either side",
		"-listen :1 -delay 6s":                                "-delay 6s: it must be from 0s to 5s",
		"-connect x:1 -count 0 -timeout 0s":                   "-count 0: it must be positive",
		"-connect x:1 -timeout -1s":                           "-timeout -1s: it must be positive",
		"-listen :1 -max-clients 0":                           "-max-clients 0: it must be from 1 to",
		"-listen :1 -history -1":                              "-history -1: it must be",
		"-listen :1 -bits 1024":                               "1024 bits",
		"-invite an/na":                                       "-invite: ",
		"-allow=":                                             "-allow needs a value",
		"-keygen -fingerprint":                                "-keygen and -fingerprint exclude each other",
		"-connect x:1 -join code":                             "-join takes no code",
		"-connect x:1 -join=code":                             "-join takes no code",
		"-connect x:1 -to " + strings.Repeat("x", maxShown+1): "-to: the name is too long",
	} {
		for range 5 { // The order of the errors must not depend on map iteration.
			_, err := parseFlags(strings.Fields(line))
			if !errors.As(err, new(errUsage)) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", line, err, want)
			}
		}
	}
	for _, line := range []string{"-listen :1 -invite anna", "-connect :1 -paper -identity i -peer p",
		"-listen :1 -paper -identity i -peer a -peer b -delay 2s"} {
		if _, err := parseFlags(strings.Fields(line)); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// TestHelpTiers: -help prints the short text, -help-all the full text, and both fit 80 columns.
func TestHelpTiers(t *testing.T) {
	for arg, want := range map[string]string{"-h": shortUsage(), "-help": shortUsage(), "-help-all": fullUsage()} {
		if out, stderr, code := runToEnd(t, t.TempDir(), "", arg); out != want || stderr != "" || code != exitDone {
			t.Errorf("%s: exit %d, stderr %q, stdout %q", arg, code, stderr, out)
		}
	}
	for line := range strings.Lines(shortUsage() + fullUsage()) {
		if len(line) > usageWidth+1 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
	for row := range new(options).all {
		if inAll := strings.Contains(fullUsage(), " -"+row.shown()); !inAll {
			t.Errorf("-help-all lacks -%s", row.name)
		}
		if row.common && !strings.Contains(shortUsage(), "\n  -"+row.shown()) {
			t.Errorf("-help lacks -%s", row.name)
		}
	}
}

// TestCompletion prints the completion script of each shell and rejects other arguments.
func TestCompletion(t *testing.T) {
	for shell, want := range map[string]string{
		"bash": "complete -F _securechat securechat\n", "zsh": "#compdef securechat\n",
		"fish": "complete -c securechat -o log-text=false -d 'log the SHA-256",
	} {
		if out, stderr, code := runToEnd(t, t.TempDir(), "", "-completion", shell); !strings.Contains(out, want) ||
			stderr != "" || code != exitDone {
			t.Errorf("%s: exit %d, stderr %q, stdout %q", shell, code, stderr, out)
		}
	}
	if _, stderr, code := runToEnd(t, t.TempDir(), "", "-completion", "tcsh"); code != exitUsage ||
		!strings.Contains(stderr, "bash, zsh or fish") {
		t.Errorf("tcsh: exit %d, %q", code, stderr)
	}
}

// codeMap returns the file patterns of ARCHITECTURE.md's code map, the lowest layer first.
func codeMap(t *testing.T) (patterns []string) {
	t.Helper()
	f, err := os.Open("docs/ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	inMap := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			inMap = strings.Contains(line, "Code map")
		}
		if words := strings.Fields(line); inMap && len(words) > 0 && strings.HasSuffix(words[0], ".go") {
			patterns = append(patterns, words[0])
		}
	}
	if len(patterns) == 0 {
		t.Fatal("docs/ARCHITECTURE.md has no code map")
	}
	return patterns
}

// layersOf maps each file to its place in the code map, and returns the files and the map's lines without a
// counterpart.
func layersOf(patterns, files []string) (layers map[string]int, faults []string) {
	layers = map[string]int{}
	used := map[string]bool{}
	for _, f := range files {
		at := slices.IndexFunc(patterns, func(p string) bool { ok, _ := path.Match(p, f); return ok })
		if at < 0 {
			faults = append(faults, f+" is not on the code map")
			continue
		}
		layers[f], used[patterns[at]] = at, true
	}
	for _, p := range patterns {
		if !used[p] {
			faults = append(faults, p+" is on the code map, and there is no such file")
		}
	}
	return layers, faults
}

// emptyPackages imports every package as an empty one: only references inside this package are checked.
type emptyPackages struct{}

func (emptyPackages) Import(name string) (*types.Package, error) {
	p := types.NewPackage(name, path.Base(name))
	p.MarkComplete()
	return p, nil
}

// upward returns the references from a file to one below it on the code map.
func upward(sources map[string]string, layers map[string]int) (faults []string, err error) {
	fset := token.NewFileSet()
	var parsed []*ast.File
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		f, err := parser.ParseFile(fset, name, sources[name], 0)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, f)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: emptyPackages{}, Error: func(error) {}, FakeImportC: true}
	_, _ = conf.Check("main", fset, parsed, info) // Errors are expected: the imported packages are empty.
	for ident, object := range info.Uses {
		from, to := fset.Position(ident.Pos()), fset.Position(object.Pos())
		if to.Filename != "" && layers[to.Filename] > layers[from.Filename] {
			faults = append(faults, fmt.Sprintf("%s:%d uses %s of %s, a higher layer", from.Filename, from.Line, ident.Name,
				to.Filename))
		}
	}
	slices.Sort(faults)
	return slices.Compact(faults), nil
}

// TestLayers checks that each file uses only files above it in ARCHITECTURE.md's code map.
func TestLayers(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, "_test.go") })
	layers, faults := layersOf(codeMap(t), files)
	sources := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		sources[f] = string(b)
	}
	references, err := upward(sources, layers)
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range append(faults, references...) {
		t.Error(fault)
	}
}

// TestLayersFindsFaults shows that TestLayers can fail: for a function, a type, a field and a method of a higher layer,
// for a file that is not on the map and for a line of the map without a file.
func TestLayersFindsFaults(t *testing.T) {
	layers, faults := layersOf([]string{"low.go", "gone.go", "high_*.go"}, []string{"high_linux.go", "low.go", "new.go"})
	if want := []string{"new.go is not on the code map",
		"gone.go is on the code map, and there is no such file"}; !slices.Equal(faults, want) {
		t.Errorf("%q, want %q", faults, want)
	}
	faults, err := upward(map[string]string{
		"low.go": "package main\nimport \"os\"\ntype base int\nfunc low() { os.Exit(1); high() }\nfunc (b base) " +
			"get() int { return b.more() + (*top)(nil).field }",
		"high_linux.go": "package main\ntype top struct { field int }\nfunc high() { low() }\nfunc (b base) more() int { " +
			"return b.get() }",
	}, layers)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{
		"low.go:4 uses high of high_linux.go, a higher layer",
		"low.go:5 uses field of high_linux.go, a higher layer",
		"low.go:5 uses more of high_linux.go, a higher layer",
		"low.go:5 uses top of high_linux.go, a higher layer",
	}; !slices.Equal(faults, want) {
		t.Errorf("%q, want %q", faults, want)
	}
}
