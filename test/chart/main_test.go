package chart

import (
	"fmt"
	"os"
	"testing"
)

// outDir is where the tests build culvert.
var outDir string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	var err error
	if outDir, err = os.MkdirTemp("", "culvert-chart-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(outDir)
	return m.Run()
}
