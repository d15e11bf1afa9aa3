package tunnel

import (
	"reflect"
	"testing"
)

// The compiler does not see a field that is missing in a row of the table.
func TestEveryTransportIsComplete(t *testing.T) {
	for _, row := range transports {
		fields := reflect.ValueOf(row)
		for i := range fields.NumField() {
			f := fields.Type().Field(i)
			if k := f.Type.Kind(); (k == reflect.Func || k == reflect.Map) && fields.Field(i).IsNil() {
				t.Errorf("%s: %s is not set", row.name, f.Name)
			}
		}
		if got, ok := transportNamed(row.name); !ok || got.name != row.name {
			t.Errorf("transportNamed(%s) = %q, %t", row.name, got.name, ok)
		}
	}
}
