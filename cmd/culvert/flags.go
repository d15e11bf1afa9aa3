package main

import (
	"slices"
	"strings"
)

// checkPair refuses one of two settings that need each other.
func checkPair(certFlag, cert, keyFlag, key string) error {
	switch {
	case cert != "" && key == "":
		return wrong("add "+keyFlag+" with its key", "%s %s: a certificate needs its key", certFlag, cert)
	case cert == "" && key != "":
		return wrong("add "+certFlag+" with its certificate", "%s %s: a key needs its certificate", keyFlag, key)
	}
	return nil
}

// given lists, in order, the flags that are set.
func given(flags map[string]bool) []string {
	var set []string
	for name, is := range flags {
		if is {
			set = append(set, name)
		}
	}
	slices.Sort(set)
	return set
}

// values are those of a repeatable setting, without blanks.
func values(list []string) []string {
	var kept []string
	for _, v := range list {
		if v = strings.TrimSpace(v); v != "" {
			kept = append(kept, v)
		}
	}
	return kept
}
