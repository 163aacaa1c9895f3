package main

// Lines typed at a terminal, which may be commands. In piped input every line is text.

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	clientHelp = `/who              list the people in the room
/history N        show the last N messages once more
/msg NAME TEXT    send TEXT to NAME alone
/reply TEXT       answer the last message to you alone
/me TEXT          describe what you do
/quit             leave; an empty line, Ctrl-D and Ctrl-C do so too
//TEXT            send a line that begins with one slash`
	operatorHelp = `/who              list the people in the room
/history N        show the last N messages once more
/msg NAME TEXT    send TEXT to NAME alone
/reply TEXT       answer the last message to you alone
/me TEXT          describe what you do
/kick NAME        remove NAME from the room
/invite NAME      make a one-time code that lets NAME in
/allow [NAME]     let in the key that was refused
/quit             close the room; Ctrl-D and Ctrl-C do so too, but ask first
                  while others are here
//TEXT            send a line that begins with one slash`
	unknownCommand = "there is no %s here; /help lists the commands, and //… sends a line that begins with a slash"
)

// parseTyped parses a typed line. If command is empty, out is to be sent; otherwise arg is the text after the
// command. The error describes the use of a command that sends something.
func parseTyped(line []byte) (out outLine, command, arg string, err error) {
	text := string(line)
	switch {
	case strings.HasPrefix(text, "//"):
		return outLine{what: itemSay, text: line[1:]}, "", "", nil
	case !strings.HasPrefix(text, "/"):
		return outLine{what: itemSay, text: line}, "", "", nil
	}
	command = text
	if end := strings.IndexAny(text, " \n"); end >= 0 {
		command, arg = text[:end], strings.TrimSpace(text[end:])
	}
	if strings.Contains(arg, "\n") {
		return out, "", "", fmt.Errorf("%s takes one line, and the pasted text has several: nothing was done", command)
	}
	switch command {
	case "/me":
		if arg == "" {
			return out, "", "", errors.New("/me TEXT describes what you do")
		}
		return outLine{what: itemAction, text: []byte(arg)}, "", "", nil
	case "/reply": // otherwise expandReply has made a /msg of it
		return out, "", "", errors.New("/reply TEXT answers the last message to you alone: there is none, or no TEXT")
	case "/msg":
		to, text, _ := strings.Cut(arg, " ")
		text = strings.TrimSpace(text)
		switch {
		case to == "" || text == "" || len(to) > maxShown:
			return out, "", "", errors.New("/msg NAME TEXT sends TEXT to NAME alone")
		case !validShown(to):
			return out, "", "", fmt.Errorf("not sent: %w", nameError(to))
		}
		return outLine{what: itemDirect, to: to, text: []byte(text)}, "", "", nil
	}
	return out, command, arg, nil
}

// expandReply returns the /msg that a /reply stands for. Any other line is returned as it is.
func expandReply(line, to string) string {
	rest, ok := strings.CutPrefix(line, "/reply")
	if !ok || to == "" || strings.TrimSpace(rest) == "" || rest[0] != ' ' {
		return line
	}
	return "/msg " + to + rest
}

// readCommands makes the terminal of c complete the commands in help and the names of others, and expand /reply.
func readCommands(c *console, help string, names func() []string) {
	c.term.expand = func(line string) string { return expandReply(line, c.replyTo()) }
	c.term.complete = func(line string, pos int) (words []string, after string) {
		me := c.ownName()
		others := slices.DeleteFunc(names(), func(name string) bool { return name == me })
		return completions(line, pos, help, others)
	}
}

// completions returns the words that can replace the word that ends at byte pos of line: one of commands, which is a
// help text, at the start of the line, otherwise one of names. A name at the start of the line addresses a message, so
// a colon follows it.
func completions(line string, pos int, commands string, names []string) (words []string, after string) {
	word := line[:pos]
	after = ": "
	if at := strings.LastIndexByte(word, ' '); at >= 0 {
		word, after = word[at+1:], " "
	} else if strings.HasPrefix(word, "/") {
		return completeCommand(word, commands), " "
	}
	for _, n := range names {
		if strings.HasPrefix(strings.ToLower(n), strings.ToLower(word)) {
			words = append(words, n)
		}
	}
	return words, after
}

// completeCommand returns the commands of a help text that begin with word.
func completeCommand(word, help string) (words []string) {
	for line := range strings.SplitSeq(help, "\n") {
		if c, _, _ := strings.Cut(line, " "); strings.HasPrefix(c, word) && !strings.HasPrefix(c, "//") {
			words = append(words, c)
		}
	}
	return words
}
