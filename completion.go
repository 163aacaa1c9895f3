package main

// Completion of flags in shells, made from the table of flags. A flag begins with one dash or two.

import (
	"fmt"
	"io"
	"strings"
)

// choices returns the words that the flag's value can be, or "".
func (row option) choices() string {
	return map[string]string{"TYPE": "ed25519 rsa ecdsa", "SHELL": shells}[row.value]
}

// printCompletion prints the completion of a shell, one of shells, to stdout.
func printCompletion(shell string, stdout io.Writer) error {
	script := map[string]func([]option) string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	_, err := io.WriteString(stdout, script[shell](rows(new(options).table())))
	return err
}

func bashCompletion(all []option) string {
	var names, cases []string
	for _, row := range all {
		names = append(names, row.shown())
		from := `-W ""`
		switch {
		case row.value == "":
			continue
		case row.choices() != "":
			from = `-W "` + row.choices() + `"`
		case row.value == "FILE":
			from = "-f"
		case row.value == "FOLDER":
			from = "-d"
		}
		cases = append(cases, fmt.Sprintf("\t-%s | --%s) from=(%s) ;;\n", row.shown(), row.shown(), from))
	}
	return `# securechat -completion bash >/usr/share/bash-completion/completions/securechat
_securechat() {
	local names="` + strings.Join(names, " ") + `" dashes=-
	[[ ${COMP_WORDS[COMP_CWORD]} != --* ]] || dashes=--
	local from=(-W "$dashes${names// / $dashes}")
	case ${COMP_WORDS[COMP_CWORD - 1]} in
` + strings.Join(cases, "") + `	esac
	case ${from[0]} in -f | -d) compopt -o filenames 2>/dev/null ;; esac
	mapfile -t COMPREPLY < <(compgen "${from[@]}" -- "${COMP_WORDS[COMP_CWORD]}")
}
complete -F _securechat securechat
`
}

// shellQuoted returns text in single quotes, for any of the three shells.
func shellQuoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'"'"'`) + "'" }

func zshCompletion(all []option) string {
	var b strings.Builder
	b.WriteString("#compdef securechat\n" +
		"# securechat -completion zsh >/usr/share/zsh/site-functions/_securechat\n" +
		"_arguments")
	for _, row := range all {
		name, no := strings.CutSuffix(row.shown(), "=false")
		if no {
			name += "=-" // the value stands in the same word
		}
		spec := name + "[" + strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`).Replace(row.text()) + "]"
		switch {
		case no:
			spec += ":BOOL:(false)"
		case row.value == "":
		case row.choices() != "":
			spec += ":" + row.value + ":(" + row.choices() + ")"
		case row.value == "FILE":
			spec += ":FILE:_files"
		case row.value == "FOLDER":
			spec += ":FOLDER:_directories"
		default:
			spec += ":" + strings.ReplaceAll(row.value, ":", `\:`) + ": "
		}
		for _, dashes := range []string{"-", "--"} {
			b.WriteString(" \\\n\t" + shellQuoted(dashes+spec))
		}
	}
	return b.String() + "\n"
}

func fishCompletion(all []option) string {
	var b strings.Builder
	b.WriteString("# securechat -completion fish >/usr/share/fish/vendor_completions.d/securechat.fish\n" +
		"complete -c securechat -f\n")
	for _, row := range all {
		takes := ""
		switch {
		case row.value == "":
		case row.choices() != "":
			takes = " -x -a " + shellQuoted(row.choices())
		case row.value == "FILE", row.value == "FOLDER":
			takes = " -r -F"
		default:
			takes = " -x"
		}
		fmt.Fprintf(&b, "complete -c securechat -o %[1]s -l %[1]s%[2]s -d %[3]s\n", row.shown(), takes,
			shellQuoted(row.text()))
	}
	return b.String()
}
