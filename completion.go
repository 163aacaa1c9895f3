package main

// Completion in shells. What it says of a flag is what -help-all says: the table of flags is the one parseFlags reads, and the
// words are usage's own.

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// flagHelp is a flag as a shell shows it.
type flagHelp struct {
	name, value, text string // name is as one writes it: log-text=false; value is usage's word, such as FILE, or empty for none
}

// flagHelps returns all flags in the order of their names. A flag that usage does not tell of has no text.
func flagHelps() (all []flagHelp) {
	new(options).flags().VisitAll(func(f *flag.Flag) {
		h := flagHelp{name: f.Name}
		for line := range strings.Lines(usage) {
			_, rest, _ := strings.Cut(line, " -"+f.Name)
			rest, no := strings.CutPrefix(rest, "=false")
			value, text, ok := strings.Cut(rest, "  ")
			value, spaced := strings.CutPrefix(value, " ")
			if !ok || value != "" && (!spaced || strings.Contains(value, " ")) {
				continue // another flag, or this one in passing
			}
			if h.value, h.text = value, strings.TrimSpace(text); no {
				h.name += "=false"
			}
			break
		}
		if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
			h.value = ""
		} else if h.value == "" {
			h.value = "VALUE"
		}
		all = append(all, h)
	})
	return all
}

// choices are the words that a value can be.
func (h flagHelp) choices() string {
	return map[string]string{"TYPE": "ed25519 rsa ecdsa", "SHELL": "bash zsh fish"}[h.value]
}

// printCompletion prints a shell's completion to stdout.
func printCompletion(shell string, stdout io.Writer) error {
	text, ok := map[string]func([]flagHelp) string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[shell]
	if !ok {
		return errUsage{errors.New("-completion: bash, zsh or fish")}
	}
	_, err := io.WriteString(stdout, text(flagHelps()))
	return err
}

func bashCompletion(all []flagHelp) string {
	var names, cases []string
	for _, h := range all {
		names = append(names, "-"+h.name)
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
		cases = append(cases, fmt.Sprintf("\t-%s | --%s) from=(%s) ;;\n", h.name, h.name, from))
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

func zshCompletion(all []flagHelp) string {
	var b strings.Builder
	b.WriteString("#compdef securechat\n# securechat -completion zsh >/usr/share/zsh/site-functions/_securechat\n_arguments")
	for _, h := range all {
		name, no := strings.CutSuffix(h.name, "=false")
		if no {
			name += "=-" // the value stands in the same word
		}
		spec := "-" + name + "[" + strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`).Replace(h.text) + "]"
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

func fishCompletion(all []flagHelp) string {
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
		fmt.Fprintf(&b, "complete -c securechat -o %s%s -d %s\n", h.name, takes, shellQuoted(h.text))
	}
	return b.String()
}
