package main

// Completion of flags in shells, made from the table of flags.

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// completed returns all flags in the order of the table.
func completed() (rows []option) {
	return slices.Collect(new(options).all)
}

// choices returns the words that the flag's value can be, or "".
func (row option) choices() string {
	return map[string]string{"TYPE": "ed25519 rsa ecdsa", "SHELL": "bash zsh fish"}[row.value]
}

// printCompletion prints a shell's completion to stdout.
func printCompletion(shell string, stdout io.Writer) error {
	text, ok := map[string]func([]option) string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[shell]
	if !ok {
		return errUsage{errors.New("-completion: bash, zsh or fish")}
	}
	_, err := io.WriteString(stdout, text(completed()))
	return err
}

func bashCompletion(all []option) string {
	var names, cases []string
	for _, h := range all {
		names = append(names, "-"+h.shown())
		from := `-W ""`
		switch {
		case h.value == "":
			continue
		case h.choices() != "":
			from = `-W "` + h.choices() + `"`
		case h.value == "FILE":
			from = "-f"
		case h.value == "FOLDER":
			from = "-d"
		}
		cases = append(cases, fmt.Sprintf("\t-%s | --%s) from=(%s) ;;\n", h.shown(), h.shown(), from))
	}
	return `# securechat -completion bash >/usr/share/bash-completion/completions/securechat
_securechat() {
	local from=(-W "` + strings.Join(names, " ") + `")
	case ${COMP_WORDS[COMP_CWORD - 1]} in
` + strings.Join(cases, "") + `	esac
	case ${from[0]} in -f | -d) compopt -o filenames 2>/dev/null ;; esac
	mapfile -t COMPREPLY < <(compgen "${from[@]}" -- "${COMP_WORDS[COMP_CWORD]}")
}
complete -F _securechat securechat
`
}

// shellQuoted is text between single quotes, for any of the three shells.
func shellQuoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'"'"'`) + "'" }

func zshCompletion(all []option) string {
	var b strings.Builder
	b.WriteString("#compdef securechat\n# securechat -completion zsh >/usr/share/zsh/site-functions/_securechat\n_arguments")
	for _, h := range all {
		name, no := strings.CutSuffix(h.shown(), "=false")
		if no {
			name += "=-" // the value stands in the same word
		}
		spec := "-" + name + "[" + strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`).Replace(h.help) + "]"
		switch {
		case no:
			spec += ":BOOL:(false)"
		case h.value == "":
		case h.choices() != "":
			spec += ":" + h.value + ":(" + h.choices() + ")"
		case h.value == "FILE":
			spec += ":FILE:_files"
		case h.value == "FOLDER":
			spec += ":FOLDER:_directories"
		default:
			spec += ":" + strings.ReplaceAll(h.value, ":", `\:`) + ": "
		}
		b.WriteString(" \\\n\t" + shellQuoted(spec))
	}
	return b.String() + "\n"
}

func fishCompletion(all []option) string {
	var b strings.Builder
	b.WriteString("# securechat -completion fish >/usr/share/fish/vendor_completions.d/securechat.fish\ncomplete -c securechat -f\n")
	for _, h := range all {
		takes := ""
		switch {
		case h.value == "":
		case h.choices() != "":
			takes = " -x -a " + shellQuoted(h.choices())
		case h.value == "FILE", h.value == "FOLDER":
			takes = " -r -F"
		default:
			takes = " -x"
		}
		fmt.Fprintf(&b, "complete -c securechat -o %s%s -d %s\n", h.shown(), takes, shellQuoted(h.help))
	}
	return b.String()
}
