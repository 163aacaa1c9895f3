package main

// The documents agree with the code: README.md's usage text and ARCHITECTURE.md's layers. flags_test.go compares the
// man page with the flags.

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"os"
	"path"
	"path/filepath"
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
