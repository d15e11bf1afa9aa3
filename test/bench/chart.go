package main

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// The sizes of a plot, in pixels.
const (
	panelWidth  = 440
	panelGap    = 24
	margin      = 16
	lineHeight  = 20
	titleHeight = 44
	labelWidth  = 130 // of the names of rows
	valueWidth  = 60
	linesHeight = 220
)

// style is for light and dark pages. Transports have colours; what culvert is compared with is
// lighter.
const style = `<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 } .soft { fill: #59636e }
.page { fill: #ffffff } .axis { stroke: #d1d9e0 } .range { stroke: #1f2328 }
.direct { fill: #818b98; stroke: #818b98 } .none { fill: #8250df; stroke: #8250df } .other { fill: #bf3989; stroke: #bf3989 }
.ws { fill: #0969da; stroke: #0969da } .h3 { fill: #bc4c00; stroke: #bc4c00 } .h2 { fill: #1a7f37; stroke: #1a7f37 }
rect { stroke-width: 0 } .beside { opacity: .45 }
polyline { stroke-width: 2 } polyline.beside { stroke-dasharray: 5 4; opacity: .8 }
text.direct, text.none, text.other, text.ws, text.h3, text.h2 { stroke-width: 0 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .soft { fill: #9198a1 }
.page { fill: #0d1117 } .axis { stroke: #3d444d } .range { stroke: #e6edf3 }
.direct { fill: #9198a1; stroke: #9198a1 } .none { fill: #ab7df8; stroke: #ab7df8 } .other { fill: #f778ba; stroke: #f778ba }
.ws { fill: #4493f8; stroke: #4493f8 } .h3 { fill: #f0883e; stroke: #f0883e } .h2 { fill: #3fb950; stroke: #3fb950 }
}
</style>
`

// panel is one chart of a plot.
type panel struct {
	title, note string
	height      int
	draw        func(c *canvas)
}

// canvas is where a panel draws. Its origin is below the panel's title.
type canvas struct {
	strings.Builder
	x, y float64
}

func (c *canvas) text(x, y float64, class, anchor, text string) {
	fmt.Fprintf(c, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\" text-anchor=\"%s\">%s</text>\n", c.x+x, c.y+y, class, anchor, html.EscapeString(text))
}

func (c *canvas) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(c, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"%s\"/>\n", c.x+x1, c.y+y1, c.x+x2, c.y+y2, class)
}

// svg draws panels in two columns.
func svg(panels []panel) string {
	c := new(canvas)
	y := float64(margin)
	for pair := range slices.Chunk(panels, 2) {
		height := 0
		for i, p := range pair {
			c.x, c.y = float64(margin+i*(panelWidth+panelGap)), y
			c.text(0, 14, "title", "start", p.title)
			c.text(0, 30, "soft", "start", p.note)
			c.y += titleHeight
			p.draw(c)
			height = max(height, p.height)
		}
		y += titleHeight + float64(height+panelGap)
	}
	width := 2*margin + panelWidth*min(2, len(panels)) + panelGap*(min(2, len(panels))-1)
	size := fmt.Sprintf("width=\"%d\" height=\"%.0f\"", width, y)
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" %s viewBox=\"0 0 %d %.0f\">\n%s<rect class=\"page\" %s/>\n%s</svg>\n", size, width, y, style, size, c)
}

// class is the colour of a row.
func class(row string) string {
	kind, transport, _ := strings.Cut(row, " ")
	switch {
	case row == "direct":
		return "direct"
	case transport == "direct" && kind == culvertRow:
		return "none"
	case transport == "direct":
		return "none beside"
	case slices.Contains(transports, transport) && kind == culvertRow:
		return transport
	case slices.Contains(transports, transport):
		return transport + " beside"
	}
	return "other"
}

// bar is a median and its range.
type bar struct {
	row               string
	low, middle, high float64
	label             string
}

// barPanel draws a bar for each row.
func barPanel(title, note string, bars []bar) panel {
	most := 0.0
	for _, b := range bars {
		most = max(most, b.high)
	}
	const room = panelWidth - labelWidth - valueWidth
	at := func(value float64) float64 { return labelWidth + room*value/most }
	draw := func(c *canvas) {
		for i, b := range bars {
			y := float64(i * lineHeight)
			c.text(labelWidth-8, y+14, "", "end", b.row)
			fmt.Fprintf(c, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"14\" class=\"%s\"/>\n", c.x+labelWidth, c.y+y+3, at(b.middle)-labelWidth, class(b.row))
			if b.high > b.low {
				c.line(at(b.low), y+10, at(b.high), y+10, "range")
			}
			c.text(at(b.high)+6, y+14, "", "start", b.label)
		}
		c.line(labelWidth, 0, labelWidth, float64(len(bars)*lineHeight+2), "axis")
	}
	return panel{title, note, len(bars) * lineHeight, draw}
}

// series is the medians of one row, one for each place on the x axis.
type series struct {
	row    string
	values []float64
}

func (s series) last() float64 { return s.values[len(s.values)-1] }

// linePanel draws a line for each row.
func linePanel(title, note string, places []int, lines []series) panel {
	most := 0.0
	for _, l := range lines {
		most = max(most, slices.Max(l.values))
	}
	const ticks = 4
	step := niceStep(most / ticks)
	most = ticks * step
	const left, right, bottom = 44.0, panelWidth - 100.0, linesHeight - 40.0
	x := func(i int) float64 { return left + (right-left)*float64(i)/float64(max(1, len(places)-1)) }
	y := func(value float64) float64 { return bottom * (1 - value/most) }
	draw := func(c *canvas) {
		for i := range ticks + 1 {
			value := step * float64(i)
			c.line(left, y(value), right, y(value), "axis")
			c.text(left-6, y(value)+4, "soft", "end", fmt.Sprintf("%g", value))
		}
		for i, place := range places {
			c.text(x(i), bottom+18, "soft", "middle", fmt.Sprint(place))
		}
		c.text((left+right)/2, bottom+36, "soft", "middle", "connections")
		for _, l := range lines {
			var points []string
			for i, value := range l.values {
				points = append(points, fmt.Sprintf("%.1f,%.1f", c.x+x(i), c.y+y(value)))
			}
			fmt.Fprintf(c, "<polyline points=\"%s\" class=\"%s\" style=\"fill: none\"/>\n", strings.Join(points, " "), class(l.row))
		}
		slices.SortStableFunc(lines, func(a, b series) int { return cmp.Compare(b.last(), a.last()) })
		var ends []float64
		for _, l := range lines {
			ends = append(ends, y(l.last())+4)
		}
		apart(ends, bottom+4)
		for i, l := range lines {
			name, _, _ := strings.Cut(class(l.row), " ")
			c.text(right+8, ends[i], name, "start", l.row)
		}
	}
	return panel{title, note, linesHeight, draw}
}

// niceStep returns the smallest number of at least value that begins with 1, 2, 2.5 or 5.
func niceStep(value float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(value)))
	for _, first := range []float64{1, 2, 2.5, 5} {
		if first*unit >= value {
			return first * unit
		}
	}
	return 10 * unit
}

// apart moves labels so that none covers another, and none is below the lowest place. They are
// sorted from the highest to the lowest.
func apart(labels []float64, lowest float64) {
	const distance = 14
	for i := 1; i < len(labels); i++ {
		labels[i] = max(labels[i], labels[i-1]+distance)
	}
	for i := len(labels) - 1; i >= 0; i-- {
		labels[i] = min(labels[i], lowest)
		lowest = labels[i] - distance
	}
}
