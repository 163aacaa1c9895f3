package main

// The documents agree with the code: README.md's usage text and ARCHITECTURE.md's layers. They refer only to files,
// headings, tests and benchmarks that exist. flags_test.go compares the man page with the flags.

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
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
