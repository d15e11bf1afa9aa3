package main

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/culvert-proxy/culvert/"

// report is the output of go test -json for a package with these tests: one passed, one was
// skipped, one failed in one of two subtests, one failed by itself although its subtest passed, and
// one was running when the binary died.
const report = `{"Action":"start","Package":"P"}
{"Action":"run","Package":"P","Test":"TestGood"}
{"Action":"pass","Package":"P","Test":"TestGood","Elapsed":0.1}
{"Action":"output","Package":"P","Test":"TestElsewhere","Output":"    needs Linux\n"}
{"Action":"skip","Package":"P","Test":"TestElsewhere"}
{"Action":"pass","Package":"P","Test":"TestHalf/a"}
{"Action":"fail","Package":"P","Test":"TestHalf/b"}
{"Action":"fail","Package":"P","Test":"TestHalf"}
{"Action":"pass","Package":"P","Test":"TestAfter/a"}
{"Action":"fail","Package":"P","Test":"TestAfter"}
{"Action":"run","Package":"P","Test":"TestDied"}
{"Action":"fail","Package":"P","Elapsed":3}
`

func TestEachTestCountsOnce(t *testing.T) {
	var r Results
	if err := r.Read(strings.NewReader(strings.ReplaceAll(report, `"P"`, `"`+module+`p"`)), io.Discard); err != nil {
		t.Fatal(err)
	}
	r.Check("gofmt", nil)
	if got, want := r.total(), (counts{passed: 4, failed: 3, skipped: 1}); got != want {
		t.Errorf("total = %+v, want %+v", got, want)
	}
	var out strings.Builder
	r.Print(&out)
	if !strings.HasSuffix(out.String(), "\n4 passed, 3 failed, 1 skipped\n") || !strings.Contains(out.String(), "needs Linux") {
		t.Errorf("Print:\n%s", out.String())
	}
}

func TestPackageThatDoesNotBuildFails(t *testing.T) {
	var r Results
	err := r.Read(strings.NewReader(`{"ImportPath":"P [P.test]","Action":"build-output","Output":"p.go:3: undefined: x\n"}
{"ImportPath":"P [P.test]","Action":"build-fail"}
{"Action":"start","Package":"P"}
{"Action":"output","Package":"P","Output":"FAIL\tP [build failed]\n"}
{"Action":"fail","Package":"P","Elapsed":0,"FailedBuild":"P [P.test]"}
`), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	r.Print(&out)
	if n := r.total(); n.failed != 1 || !strings.Contains(out.String(), "undefined: x") {
		t.Errorf("total = %+v\n%s", n, out.String())
	}
}

func TestSkippedTestFailsInCI(t *testing.T) {
	var r Results
	r.Check("gofmt", nil)
	r.suite("p").test("TestElsewhere").action = "skip"
	if err := r.Err(false); err != nil {
		t.Errorf("at home: %v", err)
	}
	if err := r.Err(true); err == nil {
		t.Error("in CI: no error")
	}
}

func TestSkippedCheckIsReportedAndNoFailure(t *testing.T) {
	var r Results
	r.Check("gofmt", nil)
	r.Check("govulncheck", skipped{errors.New("no such host")})
	if err := r.Err(true); err != nil {
		t.Error(err)
	}
	var out strings.Builder
	r.Print(&out)
	if !strings.Contains(out.String(), "\nskipped checks govulncheck\nno such host\n") || !strings.HasSuffix(out.String(), "\n1 passed, 0 failed, 1 skipped\n") {
		t.Errorf("Print:\n%s", out.String())
	}
	if again := r.Skipped(); len(again) > 0 {
		t.Errorf("%v are to run again as tests", again)
	}
}

func TestSkippedTestThatPassesLaterHasPassed(t *testing.T) {
	var r Results
	r.add(event{Package: "p", Test: "TestAllocs/small", Action: "skip"}, io.Discard)
	if got := r.Skipped()["p"]; len(got) != 1 || got[0] != "TestAllocs" {
		t.Errorf("Skipped = %v", got)
	}
	r.add(event{Package: "p", Test: "TestAllocs/small", Action: "pass"}, io.Discard)
	if got, want := r.total(), (counts{passed: 1}); got != want {
		t.Errorf("total = %+v, want %+v", got, want)
	}
}

func TestFuzzTargetsAreFound(t *testing.T) {
	got := fuzzTargets("FuzzA\nFuzzB\nok  \texample/a\t0.1s\n?   \texample/b\t[no test files]\nok  \texample/c\t0.2s\nFuzzC\nok  \texample/d\t0.3s\n")
	want := []fuzzTarget{{"example/a", "FuzzA"}, {"example/a", "FuzzB"}, {"example/d", "FuzzC"}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
