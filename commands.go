package main

// Commands at a terminal (DESIGN section 6). Piped input knows none: there, every line is text.

import (
	"strings"
)

const (
	clientHelp = `/who              who is here
/msg NAME TEXT    say TEXT to NAME alone
/me TEXT          say what you do
/quit             leave; so do an empty line, Ctrl-D and Ctrl-C
//TEXT            a line that begins with one slash`
	operatorHelp = `/who              who is here
/msg NAME TEXT    say TEXT to NAME alone
/me TEXT          say what you do
/kick NAME        let NAME go
/invite NAME      make a one-time code that lets NAME in
/allow [NAME]     let in the key that was refused
/quit             close the room; so do Ctrl-D and Ctrl-C
//TEXT            a line that begins with one slash`
)

// parseCommand splits a typed line: text is to be said as it is, or name is a command and text what follows it.
func parseCommand(line []byte) (name, text string) {
	s := string(line)
	if strings.HasPrefix(s, "//") {
		return "", s[1:]
	}
	if !strings.HasPrefix(s, "/") {
		return "", s
	}
	name, text, _ = strings.Cut(s[1:], " ")
	return "/" + name, strings.TrimSpace(text)
}

// saying does the commands that say something; ok is false for every other command.
func saying(name, text string) (out outLine, problem string, ok bool) {
	switch name {
	case "":
		return outLine{what: itemSay, text: []byte(text)}, "", true
	case "/me":
		if text == "" {
			return out, "/me TEXT says what you do", true
		}
		return outLine{what: itemAction, text: []byte(text)}, "", true
	case "/msg":
		to, text, _ := strings.Cut(text, " ")
		text = strings.TrimSpace(text)
		if to == "" || text == "" || len(to) > maxShown {
			return out, "/msg NAME TEXT says TEXT to NAME alone", true
		}
		return outLine{what: itemDirect, to: to, text: []byte(text)}, "", true
	}
	return out, "", false
}

// completions returns what the word before pos can become: commands at the start of a line, else names.
func completions(line string, pos int, commands string, names []string) (words []string) {
	word := line[:pos]
	if at := strings.LastIndexByte(word, ' '); at >= 0 {
		word = word[at+1:]
	} else if strings.HasPrefix(word, "/") {
		for help := range strings.SplitSeq(commands, "\n") {
			if c, _, _ := strings.Cut(help, " "); strings.HasPrefix(c, word) && !strings.HasPrefix(c, "//") {
				words = append(words, c)
			}
		}
		return words
	}
	for _, n := range names {
		if strings.HasPrefix(strings.ToLower(n), strings.ToLower(word)) {
			words = append(words, n)
		}
	}
	return words
}
