def test_x(all_rendered):
    import json
    for k,v in all_rendered.items():
        print(k, v.top, len(v.low) if all(isinstance(x,dict) for x in v.low) else v.low, list(v.files), v.status)
