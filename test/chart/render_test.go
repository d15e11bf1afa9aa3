package chart

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

// chartDir is the chart. examples and testdata contain values for it.
const (
	chartDir  = "../../charts/culvert"
	examples  = chartDir + "/examples"
	testdata  = "testdata"
	namespace = "orders"
)

// decoder knows Kubernetes' types, the Prometheus operator's and the Gateway API's. It rejects unknown
// fields and duplicate keys.
var decoder = func() runtime.Decoder {
	if err := errors.Join(monitoringv1.AddToScheme(scheme.Scheme), gatewayv1.Install(scheme.Scheme)); err != nil {
		panic(err)
	}
	return serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
}()

// valuesFiles are the examples, and values that only tests need.
func valuesFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, dir := range []string{examples, testdata} {
		in, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
		if err != nil || len(in) == 0 {
			t.Fatalf("values files in %s: %v, %v", dir, in, err)
		}
		files = append(files, in...)
	}
	return files
}

// eachFile runs f with the values of each file.
func eachFile(t *testing.T, f func(t *testing.T, values map[string]any)) {
	for _, file := range valuesFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) { f(t, readValues(t, file)) })
	}
}

func readValues(t *testing.T, file string) map[string]any {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return parseValues(t, string(content))
}

func parseValues(t *testing.T, content string) map[string]any {
	t.Helper()
	var values map[string]any
	if err := yaml.UnmarshalStrict([]byte(content), &values); err != nil {
		t.Fatal(err)
	}
	return values
}

// render returns the rendered templates by file name. A nil cluster is none, as in helm template.
func render(values map[string]any, cluster engine.ClientProvider) (map[string]string, error) {
	chart, err := loader.Load(chartDir)
	if err != nil {
		return nil, err
	}
	options := common.ReleaseOptions{Name: "culvert", Namespace: namespace, Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(chart, values, options, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	texts, err := engine.Engine{}.Render(chart, all)
	if cluster != nil {
		texts, err = engine.RenderWithClientProvider(chart, all, cluster)
	}
	if err != nil {
		return nil, err
	}
	named := map[string]string{}
	for path, text := range texts {
		named[filepath.Base(path)] = text
	}
	return named, nil
}

// objects renders the chart and decodes the result.
func objects(t *testing.T, values map[string]any) []runtime.Object {
	t.Helper()
	texts, err := render(values, nil)
	if err != nil {
		t.Fatal(err)
	}
	var all []runtime.Object
	for name, text := range texts {
		if strings.HasSuffix(name, ".yaml") {
			all = append(all, decode(t, name, text)...)
		}
	}
	if len(all) == 0 {
		t.Fatal("nothing rendered")
	}
	return all
}

// decode decodes a stream of YAML documents.
func decode(t *testing.T, name, text string) []runtime.Object {
	t.Helper()
	var all []runtime.Object
	documents := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if isEmpty(document) {
			continue
		}
		object, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, document)
		}
		all = append(all, object)
	}
}

// isEmpty reports whether a document contains only comments.
func isEmpty(document []byte) bool {
	return !slices.ContainsFunc(bytes.Split(document, []byte("\n")), func(line []byte) bool {
		line = bytes.TrimSpace(line)
		return len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---"))
	})
}

// all returns the objects of one type.
func all[T runtime.Object](objects []runtime.Object) []T {
	var found []T
	for _, o := range objects {
		if t, ok := o.(T); ok {
			found = append(found, t)
		}
	}
	return found
}
