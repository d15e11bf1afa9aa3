// Package cache keeps what the tests install (jars, virtual environments, packages, built programs)
// in one folder that git ignores. So only the first run installs anything.
package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Env is the variable that moves the folder out of the repository.
const Env = "CULVERT_TEST_CACHE"

// Root returns the root folder of the repository, found from the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "test", "cache")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("find the repository from %s: no folder above it has test/cache", dir)
		}
	}
}

// Dir returns the cache folder and creates it if needed.
func Dir() (string, error) {
	dir := os.Getenv(Env)
	if dir == "" {
		root, err := Root()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(root, ".cache", "test")
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// complete is the file that marks a finished installation.
const complete = ".complete"

// Get returns the folder that install has filled for this name and content. It fills a folder once,
// even when several processes ask at the same time, and again if an installation was interrupted.
// The content says what is installed, with versions: another content gets another folder.
func Get(name, content string, install func(dir string) error) (string, error) {
	base, err := Dir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(content))
	dir := filepath.Join(base, name+"-"+hex.EncodeToString(sum[:4]))
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return "", fmt.Errorf("lock %s: %w", dir, err)
	}
	defer unlock()
	if _, err := os.Stat(filepath.Join(dir, complete)); err == nil {
		return dir, nil
	}
	return dir, fill(name, dir, install)
}

// fill empties the folder and installs into it directly: virtual environments and class archives
// contain their own path.
func fill(name, dir string, install func(dir string) error) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	begin := time.Now()
	Say("installing %s", name)
	if err := install(dir); err != nil {
		return fmt.Errorf("install %s: %w", name, err)
	}
	Say("installed %s in %.1f s", name, time.Since(begin).Seconds())
	return os.WriteFile(filepath.Join(dir, complete), nil, 0o644)
}

// Prefix begins each line of Say.
const Prefix = "culvert tests: "

// Say prints a line of progress for the user.
func Say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, Prefix+format+"\n", args...)
}

// Have reports whether a file exists.
func Have(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
