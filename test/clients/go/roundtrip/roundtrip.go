// Package roundtrip is the task of every Go client, and its check: produce COUNT numbered records
// with acks=all, and consume them in a group, each exactly once and in order per partition.
package roundtrip

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

const patience = time.Minute

// Trip is one run: BOOTSTRAP TOPIC GROUP COUNT [key=value ...].
type Trip struct {
	Brokers []string
	Topic   string
	Group   string
	Count   int
	Options map[string]string

	seen map[int]bool
	last map[int32]int
}

// Record is one of the numbered records.
type Record struct{ Key, Value []byte }

// Main parses the command line, runs the client, and exits.
func Main(run func(context.Context, *Trip) error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	t, err := parse(os.Args[1:])
	if err == nil {
		err = run(ctx, t)
	}
	if err == nil && !t.Done() {
		err = fmt.Errorf("%d of %d records came", len(t.seen), t.Count)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("ok: %d records\n", t.Count)
}

func parse(args []string) (*Trip, error) {
	if len(args) < 4 {
		return nil, fmt.Errorf("usage: %s BOOTSTRAP TOPIC GROUP COUNT [key=value ...]", os.Args[0])
	}
	count, err := strconv.Atoi(args[3])
	if err != nil {
		return nil, err
	}
	t := &Trip{Brokers: strings.Split(args[0], ","), Topic: args[1], Group: args[2], Count: count,
		Options: map[string]string{}, seen: map[int]bool{}, last: map[int32]int{}}
	for _, option := range args[4:] {
		key, value, _ := strings.Cut(option, "=")
		t.Options[key] = value
	}
	return t, nil
}

// Records returns the records to produce.
func (t *Trip) Records() []Record {
	var all []Record
	for n := range t.Count {
		all = append(all, Record{Key: fmt.Appendf(nil, "key-%d", n), Value: strconv.AppendInt(nil, int64(n), 10)})
	}
	return all
}

// Add counts a consumed record.
func (t *Trip) Add(partition int32, value []byte) error {
	n, err := strconv.Atoi(string(value))
	if err != nil {
		return err
	}
	if t.seen[n] {
		return fmt.Errorf("record %d came twice", n)
	}
	if last, ok := t.last[partition]; ok && n < last {
		return fmt.Errorf("record %d came behind %d in partition %d", n, last, partition)
	}
	t.seen[n] = true
	t.last[partition] = n
	return nil
}

// Done reports whether all records have come.
func (t *Trip) Done() bool { return len(t.seen) == t.Count }
